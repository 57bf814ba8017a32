"""A run of a head that nobody waits for any more is ended."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from toys.client import bundle_files, write_zip
from toys.polling import until

from isplit_plugin.client import HeadBundle, OnnxHead, Stop, current_stop
from isplit_plugin.client.stopping import stoppable
from isplit_plugin.errors import BundleError

INPUT = np.zeros((1, 3, 4, 4), np.float32)


def endless_head() -> bytes:
    """A loop that adds 1 for some thousand years."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("Add", ["sum", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["steps", "yes", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, INPUT.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, INPUT.shape)],
        [
            helper.make_tensor("steps", TensorProto.INT64, [], [2**62]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_a_running_head_is_ended(tmp_path: Path) -> None:
    files = {"heads/double.onnx": endless_head()}
    bundle = HeadBundle(write_zip(tmp_path / "toy.zip", bundle_files(extra=files)))
    head = OnnxHead(bundle, threads=1)
    head.load("double")
    stop = Stop()
    errors: list[str] = []

    def run() -> None:
        try:
            with stoppable(stop):
                head.run("double", INPUT)
        except BundleError as error:
            errors.append(error.message)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: bool(stop._ends))
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert "the head failed" in errors[0]
    bundle.close()


def test_a_run_that_begins_later_is_ended_too() -> None:
    stop, ended = Stop(), threading.Event()
    stop.set()
    with stop.ending(ended.set):
        assert ended.is_set()


def test_only_runs_of_the_block_and_the_thread_can_be_ended() -> None:
    stop = Stop()
    seen: list[Stop | None] = []
    with stoppable(stop):
        assert current_stop() is stop
        thread = threading.Thread(target=lambda: seen.append(current_stop()))
        thread.start()
        thread.join()
    assert (current_stop(), seen) == (None, [None])
    with pytest.raises(ValueError, match="a head"), stop.ending(lambda: pytest.fail("ended")):
        raise ValueError("a head")
    stop.set()
