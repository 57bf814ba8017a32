"""The profile: what the calibration set says about a network before there is traffic."""

from __future__ import annotations

from .measurement import Curve, CutMeasurement
from .profile import TARGETS, Profile

__all__ = ["TARGETS", "Curve", "CutMeasurement", "Profile"]
