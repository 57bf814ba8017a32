"""What the demo prints: traffic by cut, curves side by side, and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..advice import best_photo
from ..profile import Profile
from ..schema import Recommendation
from ..terminal import kilobytes, table
from .phase import Phase
from .served import by_cut, correct


def best_photo_text(measured: Profile) -> str:
    """The photo that every split has to beat."""
    photo = best_photo(measured)
    if photo is None:
        return "no form of the photo keeps 99 % of the answers"
    needed = "" if photo.photos_needed is None else f", about {photo.photos_needed} would tell"
    return (
        f"the photo to beat: {photo.measurement.cut}, {kilobytes(photo.measurement.nbytes)}, agrees "
        f"on {photo.agreement:.1%} of {photo.images} views{needed}"
    )


def phase_text(phase: Phase) -> str:
    """The device's figures by cut, and the share of correct answers."""
    hits = correct(phase.rows)
    total = len(phase.rows)
    return f"{_served_table(phase.rows)}\ncorrect: {hits} of {total} ({hits / total:.0%})"


def curve_table(measured: Profile, before: Recommendation, phases: Sequence[Phase]) -> str:
    """CUI at the block outputs: of the profile, and after each phase for its classes."""
    columns = [("profile", before), *((phase.name, phase.advice) for phase in phases)]
    rows = []
    for name in (point.name for point in measured.split_points if point.is_block):
        cells = [name]
        for _, advice in columns:
            point = next(p for p in advice.curve if p.split_point == name)
            mark = " *" if name == advice.best_candidate else ""
            cells.append(f"{point.cui:.2e} ({point.live_count:.0f}){mark}")
        rows.append(cells)
    note = (
        "CUI by class mix (live observations in brackets; * the best candidate for a bottleneck)\n"
    )
    return note + table(("split point", *(name for name, _ in columns)), rows)


def conclusions(before: Recommendation, phases: Sequence[Phase]) -> list[str]:
    """Sentences that say whether the recommendation changed."""
    answers = [("before, all calibrated classes", before)]
    answers += [(f"the classes of {phase.name}", phase.advice) for phase in phases]
    cuts = [(name, str(answer.cut)) for name, answer in answers]
    candidates = [(name, str(answer.best_candidate)) for name, answer in answers]
    return [
        _conclusion("cut to use", cuts),
        _conclusion("best place for a bottleneck", candidates),
    ]


def _conclusion(subject: str, values: Sequence[tuple[str, str]]) -> str:
    if len({value for _, value in values}) == 1:
        return (
            f"The {subject} is {values[0][1]}, before the traffic and for the classes of every "
            "phase."
        )
    places = "; ".join(f"{name}: {value}" for name, value in values)
    return f"The {subject} depends on classes and traffic: {places}."


def _served_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for served in by_cut(rows):
        times = (served.head_ms, served.encode_ms, served.round_trip_ms, served.tail_ms)
        milliseconds = [f"{time:.1f}" for time in times]
        share = f"{served.correct}/{served.photos}"
        cells.append((served.cut, kilobytes(served.bytes_sent), *milliseconds, share))
    header = ("cut", "sent", "head ms", "encode ms", "round trip ms", "tail ms", "correct")
    return table(header, cells)
