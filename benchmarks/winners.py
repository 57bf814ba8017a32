"""Where a split wins: on a fixed grid of links and devices, network by network.

``python -m benchmarks winners --profiles A.profile.safetensors,B.profile.safetensors`` reads profiles
(``isplit profile`` writes them), so it needs neither photos nor networks. It says in how many cells a
faithful split is faster than both the best faithful photo and the whole network on the device, and
by how much: with the first version's codecs alone, which need no transform, and with ``dct``.

Devices run at most ``--max-head-macs``, 3.5e9 MACs by default. That excludes `output` for ResNet-50
(4.1e9), which then counts against the photo alone, and leaves it to EfficientNet-Lite0 (0.4e9).
"""

from __future__ import annotations

import math
import os
import statistics
import sys
from pathlib import Path
from typing import Final

from isplit_plugin.advice import WinnerGrid, winner_grid
from isplit_plugin.profile import Profile
from isplit_plugin.report import winner_text, without_transforms

from .harness import Row, row

PROFILES: Final = "ISPLIT_PROFILES"
"""The environment variable with the profiles, with commas between them; ``--profiles`` sets it."""
LIMIT: Final = "ISPLIT_MAX_HEAD_MACS"
"""The environment variable with the limit; ``--max-head-macs`` sets it."""
DEFAULT_LIMIT: Final = 3.5e9


def run(quick: bool = False) -> list[Row]:
    """Rows for each profile. Nothing is measured, so ``quick`` changes nothing."""
    del quick
    named = os.environ.get(PROFILES)
    if not named:
        print("no profiles: --profiles FILE,FILE", file=sys.stderr)
        return []
    limit = float(os.environ.get(LIMIT, DEFAULT_LIMIT))
    rows: list[Row] = []
    for path in named.split(","):
        rows += _profile_rows(Profile.load(Path(path.strip())), limit)
    return rows


def _profile_rows(profile: Profile, limit: float) -> list[Row]:
    first = winner_grid(profile, max_head_macs=limit, splits=without_transforms)
    now = winner_grid(profile, max_head_macs=limit)
    excluded = all(cell.output is None for cell in now.cells)
    name = f"{profile.model}, {int(profile.count.sum())} photos"
    if excluded:
        name += f", `output` excluded by {limit:g} MACs"
    print(f"\n{name}\n{winner_text(now)}", file=sys.stderr)
    return [
        _row(f"{name}: first version's codecs", first),
        _row(f"{name}: with dct", now),
    ]


def _row(name: str, grid: WinnerGrid) -> Row:
    gains = grid.gains
    points = ", ".join(f"{point} {cells}" for point, cells in grid.split_points.items())
    middle, most = (statistics.median(gains), gains[-1]) if gains else (math.nan, math.nan)
    words = f"gain {middle:.2f} in the median, {most:.2f} at most: {points}" if gains else "none"
    return row(
        name,
        len(grid.wins),
        f"of {len(grid.cells)} cells",
        expected=words,
        median_gain=middle if gains else None,
        largest_gain=most if gains else None,
        split_points=grid.split_points,
        cells=[
            {
                "uplink_mbps": cell.uplink_mbps,
                "slowdown": cell.slowdown,
                "winner": None if cell.winner is None else str(cell.winner.cut),
                "undecided": cell.winner is not None and cell.winner.undecided,
                "gain": None if math.isnan(cell.gain) else cell.gain,
            }
            for cell in grid.cells
        ],
    )
