"""The forwarder: admits devices by their tokens, and passes their requests on to TorchServe.

It stands between the devices and TorchServe's inference port. It holds TorchServe's token, so that
a device needs its device token and nothing else; ends TLS; bounds rates, bodies and connections;
and passes predictions, questions, labels and probes of the models that it was told, and nothing
else. ``isplit forward`` and ``isplit serve --forward`` run it.
"""

from __future__ import annotations

from .forwarder import Forwarder
from .settings import ForwarderSettings, Limits
from .tls import check_certificate

__all__ = ["Forwarder", "ForwarderSettings", "Limits", "check_certificate"]
