"""The error tree. Every error owns an HTTP status and a stable code, so that the client raises what the server meant.

::

    IsplitError                          500 internal
    ├── CaptureError                     422 capture_failed          a network that cannot be captured or cut
    │   └── SplitPointError              422 invalid_split_point     not a single-tensor cut; names the live tensors
    ├── UnknownNameError                 404 unknown_name            lists what is known
    │   ├── UnknownModelError            404 unknown_model
    │   ├── UnknownClassError            404 unknown_class
    │   ├── UnknownRequestError          404 unknown_request         no request of that id waits for a label
    │   ├── UnknownSplitPointError       404 unknown_split_point
    │   └── UnknownCodecError            404 unknown_codec
    ├── WireError                        400 malformed_request       the only error that comes out of a decoder
    │   └── WireSizeError                413 too_large
    ├── NetworkMismatchError             409 network_mismatch        a head of another network; both hashes
    ├── ImageError                       400 not_an_image
    ├── QueryError                       400 bad_query               a question the endpoint cannot read
    ├── TokenError                       403 bad_device_token        forged, expired or malformed
    ├── ProbeError                       409 probe_refused           probes are off, or make no sense at this cut
    │   ├── ProbeBudgetError             429 probe_budget            enough probes for now; `details` say when
    │   └── TicketError                  403 bad_ticket              forged, expired, used before, or another's
    ├── LabelSecretError                 403 bad_label_secret        labels are off, or came with a wrong secret
    ├── LabelledBeforeError              409 labelled_before         the request has its label already
    ├── ArtifactError                    422 bad_artifact            a file missing, corrupt or of a newer format
    │   ├── BundleError                  422 bad_bundle
    │   ├── SecretError                  422 bad_secret              a secret file missing, short, or open to others
    │   └── ProfileError                 422 bad_profile
    ├── DataError                        422 bad_data                a calibration folder without usable images
    ├── StoreError                       503 store_unavailable
    ├── ServingError                     500 serving_failed          TorchServe did not start, register or stop
    └── TransportError                   502 transport               raised by the client; `busy` by tails too
        ├── ServerUnavailableError       503 unavailable             down, restarting, refused, timed out
        ├── ServerBusyError              503 busy                    the queue is full; retryable
        ├── AuthenticationError          401 unauthorized            missing, wrong or expired token
        └── ProtocolError                502 bad_response            an answer that is not ours

A message says what was expected and what came. ``details`` holds the same facts for programs.
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
    "ImageError",
    "IsplitError",
    "LabelSecretError",
    "LabelledBeforeError",
    "NetworkMismatchError",
    "ProbeBudgetError",
    "ProbeError",
    "ProfileError",
    "ProtocolError",
    "QueryError",
    "SecretError",
    "ServerBusyError",
    "ServerUnavailableError",
    "ServingError",
    "SplitPointError",
    "StoreError",
    "TicketError",
    "TokenError",
    "TransportError",
    "UnknownClassError",
    "UnknownCodecError",
    "UnknownModelError",
    "UnknownNameError",
    "UnknownRequestError",
    "UnknownSplitPointError",
    "WireError",
    "WireSizeError",
    "from_json",
]


class IsplitError(Exception):
    """Base of all errors of this package."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def to_json(self) -> dict[str, Any]:
        """The body of an error answer. ``error`` is a string, as the Open Inference Protocol wants it."""
        body: dict[str, Any] = {"error": self.message, "code": self.code}
        if self.details:
            body["details"] = self.details
        return body


class CaptureError(IsplitError):
    """A network that cannot be captured: several inputs, control flow that depends on data, and the like."""

    status = 422
    code = "capture_failed"


class SplitPointError(CaptureError):
    """A place that is no split point; ``details`` name the live tensors and the nearest valid ones."""

    code = "invalid_split_point"


class UnknownNameError(IsplitError):
    """A name nobody knows. The message lists the known ones."""

    status = 404
    code = "unknown_name"
    kind: ClassVar[str] = "name"

    @classmethod
    def of(cls, name: object, known: Iterable[object], *, limit: int = 60) -> Self:
        """Build the error for ``name``, listing at most ``limit`` of the ``known`` names."""
        names = [str(k) for k in known]
        shown = ", ".join(names[:limit]) + (
            f", ... ({len(names)} in all)" if len(names) > limit else ""
        )
        return cls(
            f"unknown {cls.kind} {str(name)[:200]!r}; known: {shown or 'none'}", known=names[:limit]
        )


class UnknownModelError(UnknownNameError):
    """A model that the server does not have."""

    code = "unknown_model"
    kind = "model"


class UnknownClassError(UnknownNameError):
    """A class id or label that the network does not have."""

    code = "unknown_class"
    kind = "class"


class UnknownRequestError(UnknownNameError):
    """A label for a request that was never seen, or too long ago."""

    code = "unknown_request"
    kind = "request"


class UnknownSplitPointError(UnknownNameError):
    """A split point that the network does not have, or that is not deployed."""

    code = "unknown_split_point"
    kind = "split point"


class UnknownCodecError(UnknownNameError):
    """A codec that this side does not know, or that the tail does not accept."""

    code = "unknown_codec"
    kind = "codec"


class WireError(IsplitError):
    """A body that breaks the wire format. Decoders raise nothing else, whatever goes in."""

    status = 400
    code = "malformed_request"


class WireSizeError(WireError):
    """A body, or what it would decompress to, above the limit."""

    status = 413
    code = "too_large"


class NetworkMismatchError(IsplitError):
    """Head and tail belong to different networks."""

    status = 409
    code = "network_mismatch"


class ImageError(IsplitError):
    """Bytes or an array that are no image we can read."""

    status = 400
    code = "not_an_image"


class QueryError(IsplitError):
    """A question to the recommendation endpoint that cannot be read."""

    status = 400
    code = "bad_query"


class TokenError(IsplitError):
    """A device token that proves nothing: forged, expired, malformed. ``details["reason"]`` is one word."""

    status = 403
    code = "bad_device_token"


class ProbeError(IsplitError):
    """A split-gradient probe that this tail does not take, or values that cannot be a probe's."""

    status = 409
    code = "probe_refused"


class ProbeBudgetError(ProbeError):
    """The device, or the server, has spent what it has for probes. Trying again later is safe."""

    status = 429
    code = "probe_budget"


class TicketError(ProbeError):
    """A probe's ticket that is not valid here: forged, expired, used before, of another network, class or device."""

    status = 403
    code = "bad_ticket"


class LabelSecretError(IsplitError):
    """Labels without their secret, with a wrong one, or to an endpoint that takes none."""

    status = 403
    code = "bad_label_secret"


class LabelledBeforeError(IsplitError):
    """A second label for a request; the first one stands."""

    status = 409
    code = "labelled_before"


class ArtifactError(IsplitError):
    """A file of ours that is missing, corrupt, or written by a newer version."""

    status = 422
    code = "bad_artifact"


class BundleError(ArtifactError):
    """A head bundle or model archive whose content does not match its manifest."""

    code = "bad_bundle"


class SecretError(ArtifactError):
    """A secret file that is missing, too short, or that others than its owner may read."""

    code = "bad_secret"


class ProfileError(ArtifactError):
    """A profile that is corrupt or belongs to another network."""

    code = "bad_profile"


class DataError(IsplitError):
    """Calibration data that cannot be used: no images, no labels, labels the network does not know."""

    status = 422
    code = "bad_data"


class StoreError(IsplitError):
    """The statistics store is unreachable, locked, corrupt or of a newer schema."""

    status = 503
    code = "store_unavailable"


class ServingError(IsplitError):
    """TorchServe could not be started, stopped or told to register a model."""

    code = "serving_failed"


class TransportError(IsplitError):
    """The request did not get through, or its answer did not. Raised by the client alone."""

    status = 502
    code = "transport"


class ServerUnavailableError(TransportError):
    """Nothing answers: the server is down, restarting, or too slow."""

    status = 503
    code = "unavailable"


class ServerBusyError(TransportError):
    """The server's queue is full, or a tail has more work at hand than fits its time limit. Trying again is safe."""

    status = 503
    code = "busy"


class AuthenticationError(TransportError):
    """The token is missing, wrong or expired."""

    status = 401
    code = "unauthorized"


class ProtocolError(TransportError):
    """An answer that does not follow the protocol (a proxy's page, an empty body)."""

    code = "bad_response"


def _tree(root: type[IsplitError]) -> dict[str, type[IsplitError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_json(body: Mapping[str, Any], *, status: int) -> IsplitError:
    """Rebuild the error that a server of ours answered with; an unknown code becomes :class:`ProtocolError`.

    Parameters: ``body``, the decoded JSON; ``status``, the HTTP status it came with.
    """
    code, message, details = body.get("code"), body.get("error"), body.get("details")
    kind = _tree(IsplitError).get(code) if isinstance(code, str) else None
    text = message if isinstance(message, str) else f"HTTP {status} without a message"
    facts = (
        {k: v for k, v in details.items() if isinstance(k, str)}
        if isinstance(details, Mapping)
        else {}
    )
    facts.pop("message", None)
    return (kind or ProtocolError)(text, **facts)
