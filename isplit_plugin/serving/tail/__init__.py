"""The tail: what runs in a worker of a split model. Activations in, class scores out."""

from __future__ import annotations

from ..memory import keep_loaded
from .request import TailJob
from .service import TailService

__all__ = ["TailJob", "TailService", "keep_loaded"]
