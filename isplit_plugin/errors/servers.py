"""Servers and stores that fail, and requests without a usable answer."""

from __future__ import annotations

from .base import IsplitError


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
