"""The style of pages and figures, and figures as SVG that follows the page into dark mode.

Figures are drawn in stand-in colours, which are then replaced by CSS variables. The colours of
series are those of Okabe and Ito, which colour-blind readers can tell apart, adjusted for contrast
on each background. Series also differ in their markers.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CSS", "GRID", "INK", "MARKERS", "MUTED", "RC", "SERIES", "SURFACE", "to_svg"]

INK: Final = "#0a0b01"
MUTED: Final = "#0a0b02"
GRID: Final = "#0a0b03"
SURFACE: Final = "#0a0b04"
SERIES: Final = tuple(f"#0a0c{i:02x}" for i in range(6))
MARKERS: Final = ("o", "s", "^", "D", "v", "P")

_VARIABLES: Final[Mapping[str, str]] = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    **{colour: f"c{i}" for i, colour in enumerate(SERIES)},
}

RC: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "isplit",
    "text.parse_math": False,  # a class name may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
}

_LIGHT: Final = """--page:#fafafa;--surface:#ffffff;--ink:#1b1f24;--muted:#57606a;--grid:#d8dee4;--mark:#fff4d6;
--c0:#0072b2;--c1:#c74e00;--c2:#00805d;--c3:#b3477f;--c4:#8a6d00;--c5:#3d7fa6"""
_DARK: Final = """--page:#0f1216;--surface:#171b21;--ink:#e8ebef;--muted:#a3adb8;--grid:#343b44;--mark:#3a3216;
--c0:#58b0ea;--c1:#ff9a5c;--c2:#3fcf9f;--c3:#f09ac6;--c4:#e8c547;--c5:#9fd4f2"""

CSS: Final = (
    f":root{{{_LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    """
:root{--font:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 var(--font);-webkit-text-size-adjust:100%}
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 .2rem}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--grid)}
h3{font-size:1.05rem;margin:1.6rem 0 .4rem}
p{max-width:46rem;margin:.5rem 0}
.subtitle,figcaption,caption,summary{color:var(--muted)}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:.9rem 0;font-size:.9rem}
a{color:var(--c0)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:1rem 0}
.facts div{background:var(--surface);border:1px solid var(--grid);border-radius:.5rem;padding:.6rem .8rem}
.facts b{display:block;font-size:1.3rem;line-height:1.3;overflow-wrap:anywhere}
.facts span{color:var(--muted);font-size:.85rem;line-height:1.3;display:block}
figure{margin:1rem 0;background:var(--surface);border:1px solid var(--grid);border-radius:.5rem;padding:.6rem}
figure svg{width:100%;height:auto;display:block}
figcaption{font-size:.9rem;padding:.5rem .3rem 0;max-width:50rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;margin:.6rem 0;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:0 0 .4rem}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--grid);vertical-align:top}
th,td{white-space:nowrap}
th{color:var(--muted);font-weight:600}
th.n,td.n{text-align:right}
td.w{white-space:normal;min-width:16rem;max-width:34rem}
tr.marked td{background:var(--mark)}
details{margin:.8rem 0}summary{cursor:pointer}
pre{background:var(--surface);border:1px solid var(--grid);border-radius:.5rem;padding:.7rem;overflow-x:auto}
pre{font-size:.85rem;line-height:1.4}
@media print{nav{display:none}body{background:none}}
"""
)


def to_svg(figure: Figure, *, prefix: str = "") -> str:
    """The figure as a transparent ``<svg>`` element.

    ``prefix`` is put before every id, so that several figures can share a page.
    """
    import matplotlib

    buffer = io.StringIO()
    no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        # The reader's fonts draw the text; matplotlib's own only measure it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Sizes come from the page; the view box keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"(font: [^;\"]*?px |font-family: )[^;\"]*", r"\1var(--font)", svg)
    if prefix:
        svg = re.sub(r'\bid="', f'id="{prefix}', svg)
        svg = re.sub(r'href="#', f'href="#{prefix}', svg)
        svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    return svg.strip()
