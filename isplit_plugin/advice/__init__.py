"""What to do: class-conditional curves, latency model, recommendation. Pure: no I/O, no clock, no database."""

from __future__ import annotations

from .live import ALL_GROUPS, ClassSeen, ImportanceRows, LiveView, OutcomeRow, ServedRow, Times

__all__ = ["ALL_GROUPS", "ClassSeen", "ImportanceRows", "LiveView", "OutcomeRow", "ServedRow", "Times"]
