"""The bytes curve, with the best photo on it."""

from __future__ import annotations

from toys import advice as toys

from isplit_plugin.report import bytes_curve_figure, bytes_curve_text, profile_page
from isplit_plugin.report.bytes_curve import curves
from isplit_plugin.report.style import to_svg

IMAGES = (200, 100, 100)
MEASUREMENTS = (
    toys.measure("input", "jpeg@90", 16_000, IMAGES, IMAGES),
    toys.measure("input", "avif@80", 12_000, (199, 99, 96), IMAGES),
    toys.measure("b", "dct@3", 9_000, IMAGES, IMAGES),
    toys.measure("d", "dct@1", 1_000, (190, 95, 95), IMAGES),
    toys.measure("d", "dct@3", 2_000, (198, 99, 99), IMAGES),
    toys.measure("d", "uint8+zstd", 5_000, IMAGES, IMAGES),
    toys.measure("e", "uint8+zstd", 500, IMAGES, IMAGES),
    toys.measure("output", "none", 0, IMAGES, IMAGES),
)
PROFILE = toys.profile(measurements=MEASUREMENTS)


def test_photos_and_split_points_with_several_qualities_are_drawn() -> None:
    drawn = curves(PROFILE)
    assert list(drawn) == ["photo, avif", "photo, jpeg", "b", "d"]
    assert [m.nbytes for m in drawn["d"]] == [1_000, 2_000, 5_000]
    plain = toys.profile(measurements=(MEASUREMENTS[0], *MEASUREMENTS[-2:]))
    assert list(curves(plain)) == ["photo, jpeg", "e"]


def test_a_terminal_shows_the_fewest_bytes_for_each_agreement() -> None:
    lines = [line.split() for line in bytes_curve_text(PROFILE).splitlines()[2:]]
    assert lines[0] == ["95%", *("12.0", "KB", "avif@80"), *("9.0", "KB", "dct@3"),
                        *("1.0", "KB", "dct@1")]  # fmt: skip
    assert lines[3] == ["99%", *("16.0", "KB", "jpeg@90"), *("9.0", "KB", "dct@3"),
                        *("2.0", "KB", "dct@3")]  # fmt: skip
    assert lines[4][-1] == "uint8+zstd"


def test_the_best_photo_is_on_the_curve() -> None:
    svg = to_svg(bytes_curve_figure(PROFILE))
    assert "best photo: jpeg@90<" in svg
    assert "split at d<" in svg
    assert "Bytes against agreement" in profile_page(PROFILE).html()
    no_splits = toys.profile(measurements=MEASUREMENTS[:2])
    assert "Bytes against agreement" not in profile_page(no_splits).html()


def test_the_page_does_not_say_99_percent_where_the_photos_cannot_tell() -> None:
    images = (20, 10, 10)
    photo = toys.measure("input", "jpeg@90", 16_000, images, images)
    doubtful = toys.measure("b", "dct@3", 900, (19, 10, 9), images)
    certain = toys.measure("b", "dct@4", 950, images, images)
    claim = "keeps at least 99 % of the answers"
    page = profile_page(toys.profile(measurements=(photo, doubtful))).html()
    assert f"{claim}, as far as these photos can tell, and sends less" in page
    page = profile_page(toys.profile(measurements=(photo, certain))).html()
    assert f"{claim} and sends less" in page
