"""The errors of this package. Each has an HTTP status and a code that do not change.

A server answers with :meth:`IsplitError.to_json`, and the client raises the same error again
(:func:`from_json`). The message says what was expected and what came; ``details`` holds the same
facts for programs.

::

    IsplitError                      500 internal
    ├── CaptureError                 422 capture_failed       a network that cannot be used
    │   └── SplitPointError          422 invalid_split_point  not possible at this split point
    ├── UnknownNameError             404 unknown_name
    │   ├── UnknownModelError        404 unknown_model
    │   │   └── UnknownVersionError  404 unknown_version
    │   ├── UnknownClassError        404 unknown_class
    │   ├── UnknownRequestError      404 unknown_request      a label for an unknown request
    │   ├── UnknownRouteError        404 unknown_route
    │   ├── UnknownSplitPointError   404 unknown_split_point
    │   └── UnknownCodecError        404 unknown_codec
    │       └── MissingCodecError    404 codec_missing        its library is not installed
    ├── WireError                    400 malformed_request    breaks the wire format
    │   ├── SlowBodyError            408 too_slow
    │   └── WireSizeError            413 too_large
    ├── NetworkMismatchError         409 network_mismatch     made for another network
    ├── ImageError                   400 not_an_image
    ├── QueryError                   400 bad_query            a question that makes no sense
    ├── TokenError                   403 bad_device_token
    ├── ProbeError                   409 probe_refused
    │   ├── ProbeBudgetError         429 probe_budget         too many probes
    │   └── TicketError              403 bad_ticket
    ├── LabelSecretError             403 bad_label_secret
    ├── LabelledBeforeError          409 labelled_before
    ├── ArtifactError                422 bad_artifact         a file that cannot be used
    │   ├── BundleError              422 bad_bundle
    │   ├── ExitError                422 bad_exit
    │   ├── SecretError              422 bad_secret
    │   └── ProfileError             422 bad_profile
    ├── DataError                    422 bad_data             photos or labels that cannot be used
    ├── StoreError                   503 store_unavailable
    │   └── StoreBusyError           503 store_busy           can be retried
    ├── ServingError                 500 serving_failed       TorchServe or its configuration
    └── TransportError               502 transport            a request without a usable answer
        ├── ServerUnavailableError   503 unavailable
        │   └── ServerTimeoutError   504 timeout
        ├── ServerBusyError          503 busy                 can be retried
        │   └── RateLimitError       429 rate_limited         too much from one device
        ├── AuthenticationError      401 unauthorized
        └── ProtocolError            502 bad_response
"""

from __future__ import annotations

from .answered import classes_by_code as classes_by_code
from .answered import from_json
from .artifacts import (
    ArtifactError,
    BundleError,
    CaptureError,
    DataError,
    ExitError,
    ProfileError,
    SecretError,
    SplitPointError,
)
from .base import IsplitError
from .names import (
    MissingCodecError,
    UnknownClassError,
    UnknownCodecError,
    UnknownModelError,
    UnknownNameError,
    UnknownRequestError,
    UnknownRouteError,
    UnknownSplitPointError,
    UnknownVersionError,
)
from .refusals import (
    ImageError,
    LabelledBeforeError,
    LabelSecretError,
    NetworkMismatchError,
    ProbeBudgetError,
    ProbeError,
    QueryError,
    SlowBodyError,
    TicketError,
    TokenError,
    WireError,
    WireSizeError,
)
from .servers import (
    AuthenticationError,
    ProtocolError,
    RateLimitError,
    ServerBusyError,
    ServerTimeoutError,
    ServerUnavailableError,
    ServingError,
    StoreBusyError,
    StoreError,
    TransportError,
)

__all__ = [
    "ArtifactError",
    "AuthenticationError",
    "BundleError",
    "CaptureError",
    "DataError",
    "ExitError",
    "ImageError",
    "IsplitError",
    "LabelSecretError",
    "LabelledBeforeError",
    "MissingCodecError",
    "NetworkMismatchError",
    "ProbeBudgetError",
    "ProbeError",
    "ProfileError",
    "ProtocolError",
    "QueryError",
    "RateLimitError",
    "SecretError",
    "ServerBusyError",
    "ServerTimeoutError",
    "ServerUnavailableError",
    "ServingError",
    "SlowBodyError",
    "SplitPointError",
    "StoreBusyError",
    "StoreError",
    "TicketError",
    "TokenError",
    "TransportError",
    "UnknownClassError",
    "UnknownCodecError",
    "UnknownModelError",
    "UnknownNameError",
    "UnknownRequestError",
    "UnknownRouteError",
    "UnknownSplitPointError",
    "UnknownVersionError",
    "WireError",
    "WireSizeError",
    "from_json",
]
