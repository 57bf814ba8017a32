from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from toys.report import make_manifest, make_profile

from isplit_plugin.advice import ClassCounts, LiveView, Query, ServedRow, Times, recommend
from isplit_plugin.advice.query import Constraints
from isplit_plugin.errors import ArtifactError, UnknownClassError
from isplit_plugin.profile import Profile
from isplit_plugin.report import (
    Line,
    Page,
    candidates,
    class_figure,
    curve_figure,
    overview_figure,
    profile_page,
    write_report,
)
from isplit_plugin.report.figures import _log
from isplit_plugin.report.style import to_svg
from isplit_plugin.schema import Cut

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags are balanced, and keeps text, ids and whatever could load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: Counter[str] = Counter()
        self.loads: list[tuple[str, str | None]] = []
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[str(value)] += 1
            if name.startswith("on") or (
                name in ("src", "href", "xlink:href", "data") and not str(value).startswith("#")
            ):
                self.loads.append((name, value))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def live_view() -> LiveView:
    served = ServedRow(
        Cut("layer2.4", "uint8+zstd"),
        "phones",
        120,
        2,
        120 * 9000.0,
        Times(100, 12, 11),
        tail=Times(118, 9, 8),
    )
    other = ServedRow(Cut("input", "jpeg", 90), "phones", 3, 0, 0.0)
    seen = ClassCounts(np.array([2, 0]), np.array([30.0, 10.0]), np.array([90.0, 32.0]))
    return LiveView(
        served=(other, served),
        class_counts=seen,
        as_of=1_790_000_000.0,
        revision="5e.7",
        observations=122,
    )


@pytest.fixture(scope="module")
def toy_profile() -> Profile:
    return make_profile()


@pytest.fixture(scope="module")
def html(toy_profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> str:
    manifest = make_manifest(toy_profile)
    link = Constraints(bandwidth_mbps=5, rtt_ms=20)
    answers = [
        recommend(manifest, toy_profile, live_view(), Query(constraints=link)),
        recommend(manifest, toy_profile, LiveView.empty(), Query(classes=(4,))),
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(path, toy_profile, recommendations=answers, live=live_view()) == path
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_page_is_whole_and_loads_nothing(html: str) -> None:
    reader = read(html)
    assert reader.loads == []
    assert not reader.tags.keys() & {"script", "link", "iframe", "object", "img"}
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "default-src 'none'" in html
    assert "prefers-color-scheme:dark" in html
    assert "width=device-width" in html


def test_text_is_escaped_everywhere(html: str) -> None:
    assert "<script>" not in html
    assert "<b>cat" not in html
    text = " ".join(read(html).text)
    for part in (
        "<script>alert(1)</script>",
        "tabby <b>cat</b>",
        "Ünïcode 猫",
        "$x^2$ & co",
        "2.15 <i>",
    ):
        assert part in text


def test_ids_are_unique_and_links_lead_somewhere(html: str) -> None:
    reader = read(html)
    assert [name for name, count in reader.ids.items() if count > 1] == []
    targets = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
    assert targets
    assert targets <= set(reader.ids)


def test_figures_follow_the_page_into_dark_mode(html: str) -> None:
    svgs = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(svgs) == 6  # winners, bytes, overview, classes, and one for each recommendation
    for svg in svgs:
        colours = set(re.findall(r"#[0-9a-f]{6}\b", svg))
        assert colours <= {"#000000", "#ffffff"}, colours  # nothing visible in a fixed colour
        assert not re.search(r"(fill|stroke): ?#000000", svg)
        used = set(re.findall(r"var\(--(\w+)\)", svg))
        assert {"ink", "muted", "c0"} <= used
        assert all(f"--{name}:" in html for name in used)
        assert "var(--font)" in svg
        assert "DejaVu" not in svg


def test_sections_say_what_they_should(html: str, toy_profile: Profile) -> None:
    text = " ".join(read(html).text)
    # The first block output whose 120,000 / (i + 1) bytes are below the JPEG's 17,144: 17,142.9.
    assert "layer1.6 with uint8+zstd (24 of 24 images): 17,143 bytes" in text
    assert "1.00 of the photo" in text
    for part in (
        "Recommended for the live mix",
        "Live traffic",
        "2026-09-21",
        "75.0%",
        "Measured codecs",
        "24",
        "phones",
    ):
        assert part in text
    assert f"All {len(toy_profile.measurements)} measured cuts" in text


def test_candidates_are_strict_local_maxima_over_block_outputs() -> None:
    points = make_profile(10).split_points  # blocks are 0, 2, 4, 6, 8
    mean = np.array([1, 99, 3, 99, 2, 99, 2, 99, 5, 99], dtype=float)
    assert candidates(points, mean) == [2]
    assert candidates(make_profile(5, blocks=False).split_points, np.array([1.0, 3, 2, 4, 4])) == [
        1
    ]


def test_floor_of_the_logarithm() -> None:
    logs, low = _log(np.array([1.0, 0.0, 1e-3, np.nan, 1e-30]))
    np.testing.assert_allclose(logs, [0, -7.5, -3, np.nan, -7.5])
    assert low.tolist() == [False, True, False, False, True]
    np.testing.assert_allclose(_log(np.array([1.0, 0.0, 1e-3]))[0], [0, -3.5, -3])
    np.testing.assert_array_equal(_log(np.zeros(3))[0], np.zeros(3))
    assert np.isnan(_log(np.full(2, np.nan))[0]).all()


@pytest.mark.parametrize(
    ("points", "blocks"), [(1, True), (3, False), (40, False), (90, True), (160, False)]
)
def test_figures_of_any_length_are_drawn(points: int, blocks: bool) -> None:
    profile = make_profile(points, blocks=blocks, jpeg=points != 3)
    for figure in (overview_figure(profile), class_figure(profile, [0, 3, 4])):
        svg = to_svg(figure)
        ElementTree.fromstring(svg)  # noqa: S314  our own
        names = {p.name for p in profile.split_points if p.is_block or not blocks}
        assert sum(f">{name}<" in svg for name in names) >= min(len(names), 30)


def test_same_figure_same_bytes(toy_profile: Profile) -> None:
    assert to_svg(overview_figure(toy_profile)) == to_svg(overview_figure(toy_profile))


def test_curves_without_a_value_are_drawn(toy_profile: Profile) -> None:
    points = toy_profile.split_points
    nothing = np.full(len(points), np.nan)
    half = np.where(np.arange(len(points)) < 20, np.nan, 1.0)
    lines = [Line("none", nothing, nothing), Line("half", half), Line("zero", half * 0)]
    ElementTree.fromstring(to_svg(curve_figure(points, lines)))  # noqa: S314  our own


def test_profile_with_little_in_it(tmp_path: Path) -> None:
    profile = make_profile(3, jpeg=False)
    bare = Profile(
        **{f: getattr(profile, f) for f in profile.__dataclass_fields__}
        | {"measurements": (), "accuracy": None}
    )
    text = " ".join(read(write_report(tmp_path / "r.html", bare, title="Bare").read_text()).text)
    assert "No measured cut keeps" in text
    assert "Bare" in text


def test_where_no_cut_beats_the_jpeg_the_page_says_so(tmp_path: Path) -> None:
    profile = make_profile(4)
    text = " ".join(read(write_report(tmp_path / "r.html", profile).read_text()).text)
    assert "splitting saves no bytes here" in text


def test_unknown_class_is_refused(toy_profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(UnknownClassError):
        write_report(tmp_path / "r.html", toy_profile, shown_classes=[99])
    assert (
        "very long name"
        in write_report(tmp_path / "r.html", toy_profile, shown_classes=[5]).read_text()
    )


def test_page_parts() -> None:
    page = (
        Page("T <1>", "sub")
        .section("One")
        .text("a & b")
        .code("x < y")
        .facts([(1234567, "n"), (None, "none")])
    )
    page.section("Two", level=3).table(
        ("a", "b", "c"), [(1, 2.5, "<x>"), (None, float("nan"), "y" * 50)], marked=[1]
    )
    page.table(("only",), [], folded="open me", caption="nothing")
    html = page.html()
    reader = read(html)
    assert "T <1>" in reader.text
    assert reader.tags["h3"] == 1
    assert "x &lt; y" in html
    assert "1\u202f234\u202f567" in html
    assert '<td class="n">2.5</td><td>&lt;x&gt;</td>' in html
    assert (
        '<tr class="marked"><td class="n">\u2013</td><td class="n">\u2013</td><td class="w">yyy'
        in html
    )
    assert "<summary>open me</summary>" in html
    assert "<nav>" not in html  # two sections need no contents


def test_a_table_row_of_another_width_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="row 0 has 1 cells, the header 2"):
        Page("x").table(("a", "b"), [(1,)])


def test_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot write"):
        Page("x").write(tmp_path / "absent" / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_lone_surrogates_do_not_break_the_page(tmp_path: Path) -> None:
    Page("x").text("a\udcffb").write(tmp_path / "r.html")
    assert "a?b" in (tmp_path / "r.html").read_text()


def test_importing_the_report_draws_in_nothing_heavy() -> None:
    code = "import sys, isplit_plugin.report; assert not {'matplotlib', 'torch', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_page_begun_elsewhere_is_continued(toy_profile: Profile) -> None:
    page = Page("My demo").section("Before").text("first")
    assert profile_page(toy_profile, page=page, title="The profile") is page
    html = page.html()
    assert "<h1>My demo</h1>" in html
    assert html.index("first") < html.index("The profile</h2>") < html.index("Measured codecs</h2>")
