"""Files of arrays: what reading them raises."""

from __future__ import annotations

from functools import partial

import pytest

from isplit_plugin.errors import ArtifactError, DataError, ExitError, NetworkMismatchError
from isplit_plugin.hashed_arrays import reading


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (DataError("too few"), "a.file: too few"),
        (KeyError("mean"), "a.file: expected a file of letters (KeyError: 'mean')"),
        (RecursionError("deep" * 100), f"(RecursionError: {'deep' * 50})"),
    ],
)
def test_every_error_becomes_one(raised: Exception, expected: str) -> None:
    with pytest.raises(ArtifactError) as error, reading("a.file", "a file of letters"):
        raise raised
    assert expected in error.value.message
    assert error.value.__cause__ is raised


def test_another_network_stays_an_error_of_its_own() -> None:
    mismatch = NetworkMismatchError("of network a", expected="b", found="a")
    with (
        pytest.raises(NetworkMismatchError, match=r"a\.file: of network a") as error,
        reading("a.file", "a file of letters"),
    ):
        raise mismatch
    assert error.value.details == mismatch.details


def test_the_reader_chooses_the_error() -> None:
    malformed = partial(ExitError, reason="malformed")
    with (
        pytest.raises(ExitError, match="exit: expected an exit") as error,
        reading("exit", "an exit", malformed),
    ):
        raise ValueError
    assert error.value.details["reason"] == "malformed"
