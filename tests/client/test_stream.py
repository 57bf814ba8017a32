"""Streams of frames: order, drops, errors, and an end that leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from toys.client import photo
from toys.polling import until

from isplit_plugin.client import FrameStream, SplitClient
from isplit_plugin.errors import ImageError, QueryError
from isplit_plugin.image import Image
from isplit_plugin.schema import Prediction

COLOURS = [photo(255, 0, 0), photo(0, 255, 0), photo(0, 0, 255)]
LABELS = ["red", "green", "blue"]


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_answers_come_in_order(connect: Callable[..., SplitClient], in_flight: int) -> None:
    predict = connect().predict
    with FrameStream(predict, COLOURS * 20, max_in_flight=in_flight, drop="none") as stream:
        frames = list(stream)
    assert [frame.index for frame in frames] == list(range(60))
    labels = [frame.prediction.label for frame in frames if frame.prediction is not None]
    assert labels == LABELS * 20
    assert stream.dropped == 0
    assert stream.rate > 0


def test_late_frames_are_dropped_and_counted(connect: Callable[..., SplitClient]) -> None:
    client = connect()
    go = threading.Event()

    def predict(image: Image) -> Prediction:
        go.wait(100)
        return client.predict(image)

    with FrameStream(predict, COLOURS * 20, max_in_flight=2) as stream:
        # The camera has shown all 60 frames: up to two are being worked on, two wait.
        until(lambda: stream.dropped >= 56)
        go.set()
        frames = list(stream)
    assert len(frames) + stream.dropped == 60
    # The newest are kept.
    assert [frame.index for frame in frames][-2:] == [58, 59]


def test_a_frame_that_cannot_be_read_is_one_error(connect: Callable[..., SplitClient]) -> None:
    images: list[Image] = [COLOURS[0], b"no image", COLOURS[2]]
    with FrameStream(connect().predict, images, drop="none") as stream:
        frames = list(stream)
    assert isinstance(frames[1].error, ImageError)
    assert frames[1].prediction is None
    assert [frame.error for frame in (frames[0], frames[2])] == [None, None]


def test_an_error_of_the_camera_comes_after_the_frames_before_it(
    connect: Callable[..., SplitClient],
) -> None:
    def camera() -> Iterator[Image]:
        yield COLOURS[0]
        raise RuntimeError("the cable is out")

    with FrameStream(connect().predict, camera(), drop="none") as stream:
        frames = iter(stream)
        assert next(frames).index == 0
        with pytest.raises(RuntimeError, match="cable"):
            next(frames)


def test_an_early_end_leaves_no_thread(connect: Callable[..., SplitClient]) -> None:
    def endless() -> Iterator[Image]:
        while True:
            yield COLOURS[0]

    with FrameStream(connect().predict, endless(), drop="none") as stream:
        assert next(iter(stream)).index == 0
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("isplit stream")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": "newest"}, "drop: expected oldest or none, got 'newest'"),
        ({"max_in_flight": 0}, "max_in_flight: expected 1 to 16, got 0"),
        ({"max_in_flight": 17}, "max_in_flight: expected 1 to 16, got 17"),
    ],
)
def test_bad_parameters(
    connect: Callable[..., SplitClient], options: dict[str, object], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        FrameStream(connect().predict, [], **options)  # type: ignore[arg-type]
