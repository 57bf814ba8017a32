"""HTML reports with figures: of a profile, of recommendations and of live traffic."""

from __future__ import annotations

from .figures import Line, candidates, class_figure, curve_figure, overview_figure
from .page import Page
from .writing import profile_page, write_report

__all__ = [
    "Line",
    "Page",
    "candidates",
    "class_figure",
    "curve_figure",
    "overview_figure",
    "profile_page",
    "write_report",
]
