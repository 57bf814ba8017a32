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

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

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


class IsplitError(Exception):
    """Base of all errors of this package.

    A server also answers with it, without details, when it fails for an unexpected reason.

    Attributes:
        message: what was expected and what came.
        details: the same facts for programs, as JSON types.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def to_json(self) -> dict[str, Any]:
        """The body of an error answer. ``error`` is a string, as the OIP demands."""
        body: dict[str, Any] = {"error": self.message, "code": self.code}
        if self.details:
            body["details"] = self.details
        return body


class CaptureError(IsplitError):
    """A network cannot be loaded, captured, moved to a device or exported."""

    status = 422
    code = "capture_failed"


class SplitPointError(CaptureError):
    """A tensor is not a split point, or the split point does not allow the operation.

    In the first case ``details`` hold ``live``, the names of the live tensors, and ``before`` and
    ``after``, the nearest split points.
    """

    code = "invalid_split_point"


class UnknownNameError(IsplitError):
    """A name is unknown. Message and ``details["known"]`` list known names where there are any."""

    status = 404
    code = "unknown_name"
    kind: ClassVar[str] = "name"

    @classmethod
    def of(cls, name: object, names: Iterable[object], *, limit: int = 60) -> Self:
        """The error for ``name``, which lists the first ``limit`` of the known ``names``."""
        known = [str(known_name) for known_name in names]
        listing = ", ".join(known[:limit]) or "none"
        if len(known) > limit:
            listing += f", ... ({len(known)} in all)"
        return cls(f"unknown {cls.kind} {str(name)[:200]!r}; known: {listing}", known=known[:limit])


class UnknownModelError(UnknownNameError):
    """A server, a store, or a library of networks has no model of this name."""

    code = "unknown_model"
    kind = "model"


class UnknownVersionError(UnknownModelError):
    """A server or a store has the model, but not this version or network of it.

    ``details["known"]`` lists the versions that are there, as far as they are known.
    """

    code = "unknown_version"
    kind = "version"


class UnknownClassError(UnknownNameError):
    """The network has no class of this id or name."""

    code = "unknown_class"
    kind = "class"


class UnknownRequestError(UnknownNameError):
    """A label came for a request that the store does not have, or no longer has."""

    code = "unknown_request"
    kind = "request"


class UnknownRouteError(UnknownNameError):
    """The forwarder passes nothing on under this method and path."""

    code = "unknown_route"
    kind = "route"


class UnknownSplitPointError(UnknownNameError):
    """The network, profile or manifest has no split point of this name."""

    code = "unknown_split_point"
    kind = "split point"


class UnknownCodecError(UnknownNameError):
    """A codec is unknown, or one side of the wire does not accept it."""

    code = "unknown_codec"
    kind = "codec"


class MissingCodecError(UnknownCodecError):
    """A codec is known, but the library that writes it is not installed on this side."""

    code = "codec_missing"


class WireError(IsplitError):
    """A message breaks the wire format, or a value cannot be carried by it."""

    status = 400
    code = "malformed_request"


class WireSizeError(WireError):
    """A message, what it decompresses to, or its answer is larger than the limit."""

    status = 413
    code = "too_large"


class SlowBodyError(WireError):
    """The body of a request came more slowly than the forwarder waits for."""

    status = 408
    code = "too_slow"


class NetworkMismatchError(IsplitError):
    """A head, a bottleneck or a checkpoint was made for another network.

    ``details`` hold both network hashes if they were compared.
    """

    status = 409
    code = "network_mismatch"


class ImageError(IsplitError):
    """An image cannot be read, or is larger than the limit."""

    status = 400
    code = "not_an_image"


class QueryError(IsplitError):
    """A question to the endpoint, or an argument of one, makes no sense.

    ``details["field"]`` names the argument where there is one.
    """

    status = 400
    code = "bad_query"


class TokenError(IsplitError):
    """A device token is not valid, or cannot be issued.

    ``details["reason"]`` is "malformed", "forged", "expired" or "revoked" for a token, and "id", "group" or
    "days" for the argument that prevents issuing one.
    """

    status = 403
    code = "bad_device_token"


class ProbeError(IsplitError):
    """A probe is not possible at this cut, or probes are off, or its values are not plausible."""

    status = 409
    code = "probe_refused"


class ProbeBudgetError(ProbeError):
    """A device, or the server, has used up its budget for probes. A later probe may succeed."""

    status = 429
    code = "probe_budget"


class TicketError(ProbeError):
    """A probe's ticket is malformed, forged, expired, used before, or belongs to another device.

    ``details["reason"]`` is one word.
    """

    status = 403
    code = "bad_ticket"


class LabelSecretError(IsplitError):
    """Labels came without their secret or with a wrong one, or the endpoint takes no labels."""

    status = 403
    code = "bad_label_secret"


class LabelledBeforeError(IsplitError):
    """A second label came for a request. The first one stays in force."""

    status = 409
    code = "labelled_before"


class ArtifactError(IsplitError):
    """A file is missing, damaged, of another kind or of a newer format, or cannot be written."""

    status = 422
    code = "bad_artifact"


class BundleError(ArtifactError):
    """A head bundle or model archive is damaged or incomplete, or its head cannot be run."""

    code = "bad_bundle"


class ExitError(ArtifactError):
    """An exit cannot be used: damaged, forged, expired, or of another network or class list.

    ``details["reason"]`` is "malformed", "forged", "expired", "network" or "class"; for an exit
    that cannot be fitted "evidence" or "singular".
    """

    code = "bad_exit"


class SecretError(ArtifactError):
    """A secret or key file is missing, too short, readable by others, or cannot be made."""

    code = "bad_secret"


class ProfileError(ArtifactError):
    """A profile is damaged or inconsistent, or belongs to another network."""

    code = "bad_profile"


class DataError(IsplitError):
    """Photos, labels, tensors or settings do not fit the network or the measurement."""

    status = 422
    code = "bad_data"


class StoreError(IsplitError):
    """The store is unreachable, locked, damaged or of a newer schema, or its rows do not fit."""

    status = 503
    code = "store_unavailable"


class StoreBusyError(StoreError):
    """Another writer held the store for too long. Nothing was written, and a retry is safe."""

    code = "store_busy"


class ServingError(IsplitError):
    """TorchServe could not be configured, started, stopped, or told to register a model."""

    code = "serving_failed"


class TransportError(IsplitError):
    """A request did not reach the server, or got no usable answer.

    Only the client raises this class itself. Others raise its subclasses too, as they say.
    """

    status = 502
    code = "transport"


class ServerUnavailableError(TransportError):
    """Nothing answers: the server is down, restarting or too slow. Client and launcher raise it."""

    status = 503
    code = "unavailable"


class ServerTimeoutError(ServerUnavailableError):
    """No complete answer came within the time that the caller allows. The client raises it.

    The server may still be working on the request, so the client does not repeat it.
    """

    status = 504
    code = "timeout"


class ServerBusyError(TransportError):
    """The server has too much work at the moment. Trying again is safe.

    The client raises it if TorchServe's queue is full, a tail if the requests of a batch would
    exceed its time limit.
    """

    status = 503
    code = "busy"


class RateLimitError(ServerBusyError):
    """A device sends more than the forwarder lets one device send. A later request may succeed.

    ``details["retry_after_s"]`` says when.
    """

    status = 429
    code = "rate_limited"


class AuthenticationError(TransportError):
    """A token is missing, wrong or expired: TorchServe's, or the device token at a forwarder.

    The client and the launcher raise it, and commands that cannot read a token file.
    """

    status = 401
    code = "unauthorized"


class ProtocolError(TransportError):
    """An answer does not follow the protocol, such as the page of a proxy. The client raises it."""

    code = "bad_response"


def from_json(body: Mapping[str, Any], *, status: int) -> IsplitError:
    """The error in a server's answer. An unknown code becomes a :class:`ProtocolError`.

    Parameters:
        body: the decoded JSON, as :meth:`IsplitError.to_json` makes it.
        status: the HTTP status of the answer.
    """
    code = body.get("code")
    message = body.get("error")
    details = body.get("details")
    if not isinstance(message, str):
        message = f"HTTP {status} without a message"
    if not isinstance(details, Mapping):
        details = {}
    named_details = {name: value for name, value in details.items() if isinstance(name, str)}
    error = classes_by_code().get(code, ProtocolError) if isinstance(code, str) else ProtocolError
    return error(message, **named_details)


def classes_by_code(root: type[IsplitError] = IsplitError) -> dict[str, type[IsplitError]]:
    """Code -> class, of ``root`` and everything below it."""
    classes = {root.code: root}
    for child in root.__subclasses__():
        classes.update(classes_by_code(child))
    return classes
