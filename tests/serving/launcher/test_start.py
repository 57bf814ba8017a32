"""A start that fails for a port, with a Java that says what TorchServe's frontend says then."""

from __future__ import annotations

from pathlib import Path

import pytest

from isplit_plugin.errors import ServingError
from isplit_plugin.serving.launcher import TorchServe

_JAVA = """#!/bin/sh
if [ "$1" = -version ]; then
    echo 'openjdk version "17.0.1"' >&2
    exit 0
fi
cat <<'END'
java.io.IOException: Failed to bind to address: http://127.0.0.1:47079
\tat org.pytorch.serve.ModelServer.initializeServer(ModelServer.java:357)
Caused by: io.netty.channel.unix.Errors$NativeIoException: bind(..) failed: Address already in use
END
exit 1
"""


@pytest.fixture(autouse=True)
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frontend that finds a port taken, as another program that was quicker leaves it."""
    program = tmp_path / "java" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(_JAVA)
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(program.parents[1]))


def test_a_port_that_is_taken_while_it_starts_leaves_no_trace_but_in_the_log(
    tmp_path: Path,
) -> None:
    server = TorchServe(model_store=tmp_path, models=[], workdir=tmp_path / "run")
    with pytest.raises(ServingError) as caught:
        server.start()
    log_path = tmp_path / "run" / "torchserve.log"
    assert caught.value.message == (
        "TorchServe ended while starting: 127.0.0.1:47079 was taken meanwhile; start again, or "
        f"choose other ports (log: {log_path})"
    )
    assert "\tat org.pytorch" in log_path.read_text()
    assert "\tat org.pytorch" in caught.value.details["log"]


def test_the_log_of_a_temporary_folder_is_not_named(tmp_path: Path) -> None:
    server = TorchServe(model_store=tmp_path, models=[])
    with pytest.raises(ServingError, match=r"127\.0\.0\.1:47079 was taken meanwhile$"):
        server.start()
