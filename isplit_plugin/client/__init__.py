"""The device's side: run a head, send the activation, ask where to cut, send labels.

Importing this package loads neither torch nor onnxruntime nor an HTTP library. Each is loaded when
the first client needs it.

The package logs to ``isplit.client``: retries and outages as warnings, the chosen cut as
information, every request for debugging. It never logs a token, a photo, an activation or an
answer.
"""

from __future__ import annotations

import logging

from .adaptive_client import AdaptiveClient
from .budget import Timeout
from .bundle import HeadBundle
from .class_list import fetch_classes
from .exchange import LinkReport
from .exit_list import fetch_exits
from .exits import DeviceExits, ReleasedExit
from .explanation import Explanation
from .key_file import read_key
from .labels import LabelReport, send_labels
from .recommendations import ENDPOINT, fetch_recommendation
from .runtimes import RUNTIMES, HeadRuntime, OnnxHead, RuntimeFactory, TorchHead
from .signed_exits import PublicKey
from .splitclient import SplitClient
from .stopping import Stop, current_stop
from .stream import Frame, FrameStream
from .transport import Token, Transport

__all__ = [
    "ENDPOINT",
    "RUNTIMES",
    "AdaptiveClient",
    "DeviceExits",
    "Explanation",
    "Frame",
    "FrameStream",
    "HeadBundle",
    "HeadRuntime",
    "LabelReport",
    "LinkReport",
    "OnnxHead",
    "PublicKey",
    "ReleasedExit",
    "RuntimeFactory",
    "SplitClient",
    "Stop",
    "Timeout",
    "Token",
    "TorchHead",
    "Transport",
    "current_stop",
    "fetch_classes",
    "fetch_exits",
    "fetch_recommendation",
    "read_key",
    "send_labels",
]

# A library does not print: without it, Python would print warnings that the app did not ask for.
logging.getLogger("isplit").addHandler(logging.NullHandler())
