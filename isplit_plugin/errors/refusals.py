"""Requests that a server refuses: their bytes, images, tokens, probes and labels."""

from __future__ import annotations

from .base import IsplitError


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
