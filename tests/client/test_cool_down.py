"""An outage is paid for once: predictions run here at once, and the server is asked in between."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toys import hostile
from toys.client import BUSY, Handler, Server, answering, hang, photo, reset
from toys.polling import until

from isplit_plugin.cli.predict import describe, sentence
from isplit_plugin.client import SplitClient
from isplit_plugin.client.cool_down import THREAD_NAME, CoolDown
from isplit_plugin.errors import ImageError, ProtocolError, TransportError

Connect = Callable[..., SplitClient]
GREEN = photo(51, 204, 0)
LATER = (1000.0, 1000.0)
"""Pauses that no test waits for."""
SOON = (0.01, 0.05)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


@pytest.fixture(autouse=True)
def _no_thread_is_left(connect: Connect) -> None:
    assert threads() == []


def pings(server: Server) -> int:
    return sum(request.path == "/ping" for request in server.state.seen)


def predictions(server: Server) -> int:
    return sum(request.method == "POST" for request in server.state.seen)


def test_only_the_first_photo_pays_for_a_silent_server(bundle: Path) -> None:
    with hostile.hostile(hostile.silent) as server:
        client = SplitClient(
            server.url, model="toy", head=bundle, timeout=1, local_fallback=True, cool_down=LATER
        )
        with client:
            first, *others = [client.predict(GREEN) for _ in range(20)]
        until(lambda: server.accepted)
        assert server.accepted == 1
    assert first.timings.round_trip_ms >= 1000
    assert {prediction.timings.round_trip_ms for prediction in others} == {0.0}
    for prediction in (first, *others):
        assert (prediction.fallback, prediction.label, prediction.split_point) == (
            True,
            "green",
            "output",
        )
    assert threads() == []


@pytest.mark.parametrize("fault", [reset, BUSY, hang, answering(502)])
def test_the_server_is_used_again_when_it_is_back(
    connect: Connect, server: Server, fault: Callable[[Handler], None]
) -> None:
    server.state.always = fault
    client = connect(local_fallback=True, cool_down=SOON, timeout=0.3, retries=0)
    assert client.predict(GREEN).fallback
    until(lambda: pings(server) >= 2 or predictions(server) >= 2 or not client.predict(GREEN))
    server.state.always = None
    until(lambda: not client.predict(GREEN).fallback)
    until(lambda: threads() == [])

    def settled() -> bool:  # a busy machine may miss the timeout once
        before = pings(server)
        return not any(client.predict(GREEN).fallback for _ in range(5)) and (
            pings(server) == before
        )

    until(settled)
    assert not client.predict(GREEN, "output").fallback  # asked for, and no makeshift


def test_one_prediction_is_the_trial(connect: Connect, server: Server) -> None:
    def only_pings(handler: Handler) -> None:
        if handler.path == "/ping":
            handler.answer(200, b"{}", {})
            return
        hang(handler)

    server.state.always = reset
    client = connect(local_fallback=True, cool_down=SOON, timeout=100.0, retries=0)
    client.predict(GREEN)
    server.state.always = only_pings
    before = predictions(server)
    until(lambda: threads() == [])  # the server is on trial
    running = [threading.Thread(target=client.predict, args=(GREEN,)) for _ in range(8)]
    for thread in running:
        thread.start()
    until(lambda: sum(thread.is_alive() for thread in running) == 1)  # the trial
    until(lambda: predictions(server) > before)
    assert predictions(server) - before == 1
    server.state.stop.set()
    for thread in running:
        thread.join()
    client.close()
    assert threads() == []


def test_a_trial_that_decides_nothing_is_repeated(connect: Connect, server: Server) -> None:
    server.state.always = reset
    client = connect(local_fallback=True, cool_down=SOON, retries=0)
    client.predict(GREEN)
    server.state.always = None
    until(lambda: threads() == [])
    with pytest.raises(ImageError):
        client.predict(b"no image")
    server.state.faults = [answering(200, b"another page")]
    with pytest.raises(ProtocolError):
        client.predict(GREEN)
    assert not client.predict(GREEN).fallback


class Away:
    """A server that stays away for so many questions."""

    def __init__(self, questions: int) -> None:
        self.left = questions
        self.closed = False

    def is_answering(self) -> bool:
        self.left -= 1
        return self.left < 0

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def counted(self: CoolDown) -> float:
        pauses.append(self._pause.grow())
        return 0.0

    server = Away(5)
    cool_down = CoolDown(server, (1.0, 60.0))
    drawn = [cool_down.pause_s() for _ in range(20)]
    assert 0.75 <= drawn[0] <= 1.25
    assert all(45 <= pause <= 75 for pause in drawn[6:])
    cool_down = CoolDown(server, (1.0, 60.0))
    monkeypatch.setattr(CoolDown, "pause_s", counted)
    asked = cool_down.ask()
    assert asked is not None
    cool_down.failed(asked)
    cool_down.failed(asked)  # of another thread: it is the same outage
    until(lambda: cool_down.ask() is not None)
    assert pauses == [1, 2, 4, 8, 16, 32]
    cool_down.failed(asked + 1)  # the trial: the pauses go on growing
    until(lambda: cool_down.ask() is not None)
    assert pauses[6:] == [60]
    cool_down.succeeded(asked + 2)
    again = cool_down.ask()
    assert again is not None
    cool_down.failed(asked)  # of a thread that waited through it all
    assert cool_down.ask() == again
    cool_down.failed(again)
    until(lambda: len(pauses) == 8)
    assert pauses[7] == 1
    cool_down.close()
    assert server.closed


def test_a_device_that_is_out_of_threads(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = connect(url="http://127.0.0.1:9", local_fallback=True)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert [client.predict(GREEN).fallback for _ in range(2)] == [True, True]


def test_closing_ends_a_ping_that_hangs(bundle: Path) -> None:
    with hostile.hostile(hostile.silent) as server:
        client = SplitClient(
            server.url, model="toy", head=bundle, timeout=(0.2, 0.2), local_fallback=True,
            cool_down=(0.01, 0.01),
        )  # fmt: skip
        client.predict(GREEN)
        until(lambda: server.accepted >= 2)
        started = time.monotonic()
        client.close()
        assert threads() == []
        assert time.monotonic() - started < 30
    assert threads() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of its open bundle
def test_a_client_that_is_dropped_leaves_no_thread(bundle: Path) -> None:
    client = SplitClient(
        "http://127.0.0.1:9", model="toy", head=bundle, local_fallback=True, cool_down=LATER
    )
    client.predict(GREEN)
    assert len(threads()) == 1
    del client
    gc.collect()
    until(lambda: threads() == [])


@pytest.mark.parametrize("pauses", [(0, 1), (1, -1), (1, float("nan")), ("1", 2)])
def test_what_is_no_cool_down(connect: Connect, pauses: tuple[float, float]) -> None:
    with pytest.raises(TransportError, match="cool_down: expected seconds"):
        connect(local_fallback=True, cool_down=pauses)


def test_without_the_fallback_every_prediction_asks(connect: Connect, server: Server) -> None:
    server.state.faults = [reset]
    client = connect(retries=0)
    with pytest.raises(TransportError):
        client.predict(GREEN)
    assert not client.predict(GREEN).fallback
    assert threads() == []


def test_an_outage_is_logged_and_shown(
    connect: Connect, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "isplit")
    server.state.always = reset
    client = connect(
        local_fallback=True,
        cool_down=SOON,
        retries=1,
        token="s3cret-token",
        device_token="isplit1.x",
    )
    prediction = client.predict(GREEN)
    assert describe(Path("a.jpg"), prediction)["fallback"] is True
    assert "the server did not answer, so the whole network here" in sentence(Path("a"), prediction)
    server.state.always = None
    until(lambda: not client.predict(GREEN).fallback)
    client.use(client.recommendation())
    for text in (
        "POST /predictions/toy/1.0: unavailable, retry 1 of 1",
        "toy: local fallback (unavailable)",
        "predictions run here, the next try is in",
        "the server is back: the next prediction tries it",
        "the server answers again",
        "toy: the cut is pool:uint8 now",
    ):
        assert text in caplog.text
    assert {record.name for record in caplog.records} <= {"isplit.client"} | {
        record.name for record in caplog.records if record.name.startswith("urllib3")
    }
    assert "s3cret" not in caplog.text
    assert "isplit1.x" not in caplog.text
