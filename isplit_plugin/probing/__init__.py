"""The device's side of split-gradient probes, for heads that run on torch."""

from __future__ import annotations

from .client import ProbeClient, ProbeResult

__all__ = ["ProbeClient", "ProbeResult"]
