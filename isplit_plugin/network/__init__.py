"""What is split: capture, split points, head and tail, importance."""

from __future__ import annotations

from .captured import CapturedNetwork, load
from .capturing import capture
from .importance import Importance

__all__ = ["CapturedNetwork", "Importance", "capture", "load"]
