"""Several threads share one client: each gets its own answer, and connections are neither mixed nor
lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from toys.client import TOKEN, Server, photo, recommendation, reset, scores_of

from isplit_plugin import image
from isplit_plugin.client import SplitClient
from isplit_plugin.errors import AuthenticationError
from isplit_plugin.schema import Cut

Connect = Callable[..., SplitClient]
THREADS = 8
CUTS = ["double:fp32", "pool:fp32", "input:fp32", "input:file", "output", "double:uint8+zstd"]


def expected_scores(client: SplitClient, pixels: np.ndarray) -> np.ndarray:
    assert client.manifest is not None
    return scores_of(image.preprocess(pixels, client.manifest.preprocessing)[None])[0]


def test_every_thread_gets_its_own_answers(connect: Connect, server: Server) -> None:
    client = connect()
    start = threading.Barrier(THREADS)

    def work(number: int) -> int:
        rng = np.random.default_rng(number)
        start.wait()
        for _ in range(30):
            pixels = photo(*rng.integers(0, 256, 3).tolist())
            cut = CUTS[rng.integers(len(CUTS))]
            prediction = client.predict(pixels, cut)
            assert prediction.scores is not None
            np.testing.assert_allclose(
                prediction.scores, expected_scores(client, pixels), atol=0.05
            )
            assert str(prediction.cut).startswith(cut)
        return number

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == list(range(THREADS))
    assert len(server.state.connections) <= THREADS


def test_cuts_change_while_others_predict(connect: Connect) -> None:
    client = connect()
    stop = threading.Event()
    cuts = [Cut("pool", "uint8"), Cut("double", "fp32"), Cut("input", "fp32")]

    def change() -> int:
        changes = 0
        while not stop.is_set():
            client.use(recommendation(cuts[changes % len(cuts)]))
            changes += 1
        return changes

    def work(number: int) -> set[str]:
        pixels = photo(20 * number, 200 - 20 * number, 30)
        used = set()
        for _ in range(30):
            prediction = client.predict(pixels)
            assert prediction.scores is not None
            np.testing.assert_allclose(
                prediction.scores, expected_scores(client, pixels), atol=0.05
            )
            used.add(str(prediction.cut))
        return used

    with ThreadPoolExecutor(THREADS + 1) as pool:
        changing = pool.submit(change)
        used = set().union(*pool.map(work, range(THREADS)))
        stop.set()
        assert changing.result() > 0
    assert used <= {str(cut) for cut in cuts}


def test_a_broken_connection_of_one_thread_costs_the_others_nothing(
    connect: Connect, server: Server
) -> None:
    server.state.faults = [reset] * 6
    client = connect(retries=6)
    with ThreadPoolExecutor(THREADS) as pool:
        labels = list(pool.map(lambda _: client.predict(photo(51, 204, 0)).label, range(64)))
    assert set(labels) == {"green"}


def test_a_renewed_token_is_read_once_for_all_threads(connect: Connect, server: Server) -> None:
    server.state.token = TOKEN
    reads: list[str] = []

    def read() -> str:
        reads.append("old" if not reads else TOKEN)
        return reads[-1]

    client = connect(token=read)
    client.predict(photo(51, 204, 0))
    assert reads == ["old", TOKEN]
    server.state.token = "newer"
    with ThreadPoolExecutor(THREADS) as pool:
        asked = [pool.submit(client.predict, photo(1, 2, 3)) for _ in range(THREADS)]
        errors = [prediction.exception() for prediction in asked]
    assert {type(error) for error in errors} == {AuthenticationError}
    assert len(reads) <= 2 + THREADS


@pytest.mark.parametrize("rounds", [20])
def test_closing_while_others_predict(connect: Connect, server: Server, rounds: int) -> None:
    client = connect(head=None)
    stop = threading.Event()

    def close() -> None:
        while not stop.is_set():
            client.transport.close()

    with ThreadPoolExecutor(THREADS) as pool:
        closing = pool.submit(close)
        work = [pool.submit(client.predict, photo(51, 204, 0)) for _ in range(rounds)]
        assert {prediction.result().label for prediction in work} == {"green"}
        stop.set()
        closing.result()
