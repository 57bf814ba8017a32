"""Values as text for a terminal: tables, sizes, times and recommendations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from textwrap import fill
from typing import Any, Final

from .schema import INPUT, OUTPUT, RatedCut, Recommendation, StandingPick

__all__ = [
    "NO_EXIT_KEY",
    "NO_EXIT_TRAFFIC",
    "YARDSTICK",
    "cuts_to_show",
    "exits_text",
    "kilobytes",
    "ratio",
    "recommendation_text",
    "table",
    "utc_time",
]

YARDSTICK: Final = (
    "b/p: bytes, by those of the best photo; 1-h: share of the network's time that is left to the\n"
    "server. A split can beat both the photo and the whole network here only where b/p < 1-h."
)
"""What the columns `b/p` and `1-h` of a table mean."""
NO_EXIT_KEY: Final = "This endpoint has no key (endpoint.exit_key_file): it makes no exits."
NO_EXIT_TRAFFIC: Final = (
    "No photos in the sums yet. Exits must be on (tail.exits.enabled), and the sums of a cut begin "
    "with 64 photos, of which a device with a token counts once an hour for each class. They are "
    "written to the store every 30 seconds or so."
)
_SHOWN_CLASSES: Final = 6


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for a terminal: columns of numbers aligned right, all others left."""
    cells = [[_cell(value) for value in row] for row in rows]
    columns = [[row[index] for row in cells] for index in range(len(header))]
    widths = [
        max(len(text) for text in (name, *column))
        for name, column in zip(header, columns, strict=True)
    ]
    numeric = [bool(column) and all(map(_is_number, column)) for column in columns]

    def line(texts: Sequence[str]) -> str:
        aligned = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        ]
        return "  ".join(aligned).rstrip()

    rule = ["-" * width for width in widths]
    return "\n".join([line(header), line(rule), *(line(row) for row in cells)])


def kilobytes(nbytes: float) -> str:
    """Bytes as text, in KB of 1,000 bytes with one decimal."""
    return f"{nbytes / 1000:,.1f} KB"


def ratio(value: float) -> str:
    """A ratio with two decimals; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def utc_time(seconds: float | None) -> str:
    """Epoch seconds as text, in UTC; "none yet" for 0 and ``None``."""
    if not seconds:
        return "none yet"
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds").replace("+00:00", " UTC")


def recommendation_text(answer: Recommendation, *, limit: int = 12) -> str:
    """A recommendation: the cut to use, the best cuts and the best places for a bottleneck.

    Parameters:
        limit: the most cuts and the most candidates to list; see :func:`cuts_to_show`.
    """
    lines = [*_summary(answer), "", *_cuts(answer, limit), "", *_candidates(answer, limit)]
    return "\n".join(lines)


def exits_text(listing: Mapping[str, Any], *, limit: int = 20) -> str:
    """The exits of a model, as the endpoint lists them: for each cut its newest version.

    ``limit``: the most classes of a cut.
    """
    lines = [f"{listing['model']} {listing['version']}: exits"]
    if not listing["signing"]:
        lines.append(f"  {NO_EXIT_KEY}")
    for row in listing["exits"]:
        lines += ["", f"{row['cut']}: {row['photos']:,} photos in the sums"]
        lines += _version_of_exit(row, limit) if row["versions"] else _evidence(row, limit)
    if not listing["exits"]:
        lines.append(fill(NO_EXIT_TRAFFIC, 100, initial_indent="  ", subsequent_indent="  "))
    return "\n".join(lines)


def _version_of_exit(row: Mapping[str, Any], limit: int) -> list[str]:
    version = row["versions"][0]
    about = f"  exit {version['exit'][:16]} is {version['state']}"
    if version["state"] == "damaged":
        return [f"{about}: {version['reason']}"]
    until = utc_time(version["released_until"])
    classes = version["classes"]
    exits, nbytes, ms = (
        sum(of_class[name] for of_class in classes) for name in ("exits", "bytes_saved", "ms_saved")
    )
    lines = [
        f"{about}, release {version['release']}, for devices until {until}",
        f"  {version['share']:.0%} of the photos with an exit's answer are released; about "
        f"{exits:,.0f} answered so far, which saved {kilobytes(nbytes)} and {ms / 1000:,.1f} s",
    ]
    header = ("class", "state", "shadow", "missing", "share", "exits", "KB", "audited", "disagree")
    rows = [
        (
            of_class["label"],
            of_class["state"],
            of_class["shadow"],
            of_class["missing"],
            f"{of_class['share']:.0%}",
            round(of_class["exits"]),
            round(of_class["bytes_saved"] / 1000, 1),
            of_class["audited"],
            _disagreement(of_class),
        )
        for of_class in sorted(classes, key=lambda c: -c["shadow"])
    ]
    return [*lines, table(header, rows[:limit])]


def _evidence(row: Mapping[str, Any], limit: int) -> list[str]:
    header = ("class", "photos", "devices", "photos missing", "devices missing")
    names = ("label", "photos", "devices", "missing_photos", "missing_devices")
    rows = [[of_class[name] for name in names] for of_class in row["evidence"][:limit]]
    return ["  no exit yet", table(header, rows)]


def _disagreement(of_class: Mapping[str, Any]) -> str:
    if of_class["disagreement"] is None:
        return "-"
    low, high = of_class["disagreement_low"], of_class["disagreement_high"]
    return f"{of_class['disagreement']:.1%} ({low:.1%} to {high:.1%})"


def cuts_to_show(answer: Recommendation, limit: int) -> list[RatedCut]:
    """The ``limit`` best cuts.

    The best cut at `input`, the best at `output` and the best photo follow where they are not among
    them, because every other cut is compared with these.
    """
    rows = list(answer.cuts[:limit])
    for point in (INPUT, OUTPUT):
        if not any(row.split_point == point for row in rows):
            rows += [row for row in answer.cuts[limit:] if row.split_point == point][:1]
    if not any(row.cut.is_photo for row in rows):
        rows += [row for row in answer.cuts if row.cut.is_photo][:1]
    return rows


def _summary(answer: Recommendation) -> list[str]:
    shares = [f"{share.label} {share.weight:.0%}" for share in answer.classes]
    classes = ", ".join(shares[:_SHOWN_CLASSES]) or "none seen"
    if len(shares) > _SHOWN_CLASSES:
        classes += f" and {len(shares) - _SHOWN_CLASSES} more"
    lines = [
        f"{answer.model} {answer.version}: use {answer.cut}",
        f"  {answer.reason}",
        f"  classes ({answer.mix}): {classes}",
        f"  from {answer.observations} live requests and the profile; source {answer.source}, "
        f"confidence {answer.confidence:.2f}, revision {answer.revision}",
    ]
    if answer.standing is not None:
        lines.append(f"  {_standing_pick(answer.standing)}")
    return lines


def _standing_pick(pick: StandingPick) -> str:
    since = "from the profile" if pick.since is None else f"since {utc_time(pick.since)}"
    rival = "no other cut is estimated to be better"
    if pick.rival is not None:
        rival = f"{pick.rival} waits for proof ({pick.reason})"
    return f"standing pick: {pick.cut}, {since}; {rival}"


def _cuts(answer: Recommendation, limit: int) -> list[str]:
    rows = [
        (
            "*" if row.verdict == "picked" else "",
            str(row.cut),
            round(row.nbytes),
            round(row.latency_ms, 1),
            "-" if row.agreement is None else f"{row.agreement:.1%}",
            ratio(row.byte_ratio),
            ratio(row.tail_share),
            row.reason,
        )
        for row in cuts_to_show(answer, limit)
    ]
    header = ("", "cut", "bytes", "latency ms", "agreement", "b/p", "1-h", "why")
    return ["What to use now", table(header, rows), YARDSTICK]


def _candidates(answer: Recommendation, limit: int) -> list[str]:
    candidates = [row for row in answer.candidates if row.is_candidate][:limit]
    rows = [
        (
            "*" if row.split_point == answer.best_candidate else "",
            row.split_point,
            f"{row.predictor_value:.3e}",
            "-" if math.isnan(row.standard_error) else f"{row.standard_error:.1e}",
            row.source,
            round(row.live_count),
            round(row.profile_count),
            row.nbytes,
        )
        for row in candidates
    ]
    title = (
        f"Where a bottleneck is worth training (rule {answer.rule} over {answer.candidate_set}, "
        f"predictor {answer.predictor})"
    )
    counts = ("live", "profile", "raw bytes")
    header = ("", "split point", "CUI", "standard error", "source", *counts)
    return [title, table(header, rows)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _is_number(cell: str) -> bool:
    try:
        float(cell.rstrip("%").replace(",", ""))
    except ValueError:
        return cell == "-"
    return True
