"""HTML reports with figures: of a profile, recommendations, live traffic and simulations."""

from __future__ import annotations

from .bytes_curve import bytes_curve_figure, bytes_curve_text
from .exit_sections import add_exits, exit_figure, write_exits
from .figures import Line, candidates, class_figure, curve_figure, overview_figure
from .page import Page
from .simulation_page import latency_figure, write_simulation
from .winners import winner_figure, winner_sentences, winner_text, without_transforms
from .writing import profile_page, write_report

__all__ = [
    "Line",
    "Page",
    "add_exits",
    "bytes_curve_figure",
    "bytes_curve_text",
    "candidates",
    "class_figure",
    "curve_figure",
    "exit_figure",
    "latency_figure",
    "overview_figure",
    "profile_page",
    "winner_figure",
    "winner_sentences",
    "winner_text",
    "without_transforms",
    "write_exits",
    "write_report",
    "write_simulation",
]
