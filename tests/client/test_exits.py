"""What a device makes of exits that it is offered: only those that are whole, its own, and signed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.client import Server, make_manifest, photo
from toys.polling import until

from isplit_plugin.client import DeviceExits, SplitClient, Transport
from isplit_plugin.client.exchange import LinkReport
from isplit_plugin.client.exits import MAX_TASKS
from isplit_plugin.client.recommendations import Subject
from isplit_plugin.client.split import SplitNetwork
from isplit_plugin.client.transport import Reply
from isplit_plugin.errors import AuthenticationError, ProtocolError, SecretError
from isplit_plugin.exits import (
    ClassRelease,
    Exit,
    ExitRelease,
    ExitSums,
    fit_exit,
    new_keys,
    read_private_key,
    sign,
)
from isplit_plugin.schema import Cut
from isplit_plugin.wire import decode_request, find_header, header_length

CUT = Cut("double", "fp32")
SHAPE = (3, 4, 4)
NOW = 1000.0
CENTERS = 3 * np.eye(3)


def make_exit(**changes: Any) -> Exit:
    random = np.random.default_rng(1)
    network, cut = changes.pop("network_hash", "feed"), changes.pop("cut", CUT)
    sums = ExitSums.empty(network, cut, np.full(3, -50.0), np.full(3, 50.0))
    for class_id, center in enumerate(CENTERS):
        named = changes.get("class_ids", (0, 1, 2))[class_id]
        sums.add(center + random.normal(size=(100, 3)), np.full(100, named))
    return fit_exit(sums, created=NOW, lifetime_s=500.0)


def make_release(exit_: Exit, number: int = 1, **changes: Any) -> ExitRelease:
    release = ExitRelease(
        network_hash=exit_.network_hash,
        cut=exit_.cut,
        version=exit_.version,
        number=number,
        issued=NOW,
        expires=NOW + 100,
        tolerance=0.02,
        classes={0: ClassRelease(0, 1.0), 1: ClassRelease(0, 0.5)},
    )
    return replace(release, **changes)


@dataclass
class Offers(Transport):
    """Answers every question with what is offered, or not before it may."""

    content: bytes = b""
    release: bytes = b""
    paths: list[str] = field(default_factory=list)
    raw: bytes | None = None
    open: threading.Event = field(default_factory=threading.Event)

    def get(self, path: str, *, max_bytes: int | None = None) -> Reply:
        self.paths.append(path)
        assert self.open.wait(60)
        if self.raw is not None:
            return Reply(self.raw, {})
        encoded = {
            "exit": base64.b64encode(self.content).decode(),
            "release": base64.b64encode(self.release).decode(),
        }
        return Reply(json.dumps(encoded).encode(), {})


@dataclass
class Device:
    """Exits of a device with its clock and its dice."""

    key: bytes
    offers: Offers
    exits: DeviceExits
    now: float = NOW
    uptime: float = 0.0
    dice: float = 0.9

    def offer(self, exit_: Exit, release: ExitRelease | None = None) -> None:
        release = make_release(exit_) if release is None else release
        self.offers.content = sign(exit_.to_bytes(), self.key)
        self.offers.release = sign(release.to_bytes(), self.key)

    def hear(self, release: str) -> None:
        """An answer names a release; wait for what follows."""
        self.rest()
        before = self.exits.counters()
        self.exits.note(CUT, release)
        until(lambda: self.exits.counters() != before)

    def rest(self) -> None:
        """Wait until nothing is fetched and nothing audited."""
        until(lambda: not self.exits._tasks and self.exits._thread is None)

    def word(self, class_id: int = 0) -> Any:
        values = np.broadcast_to(CENTERS[class_id][:, None, None], SHAPE)
        return self.exits.ask(CUT, lambda: values[None].astype(np.float32))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    private, public = new_keys(tmp_path / "key")
    offers = Offers()
    offers.open.set()
    made: list[Device] = []
    exits = DeviceExits(
        offers,
        Subject("toy", None, "feed"),
        make_manifest(),
        public,
        clock=lambda: made[0].now,
        monotonic=lambda: made[0].uptime,
        draw=lambda: made[0].dice,
    )
    made.append(Device(read_private_key(private), offers, exits))
    return made[0]


def test_a_released_class_is_answered_and_others_are_watched(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_)
    assert device.word() is None
    device.hear(f"{exit_.version[:16]}.1")
    word = device.word(1)
    assert (word.answers, word.audit, word.statement.class_id) == (True, False, 1)
    assert str(word.statement) == f"{exit_.version[:16]}:1:{word.statement.bin}:audit"
    watched = device.word(2)
    assert (watched.answers, watched.statement.audit) == (False, False)
    released = device.exits.released(CUT)
    assert released is not None
    assert released == (exit_.version, (0, 1), 0.02, 0.75)
    device.dice = 0.1
    assert device.word(1).audit
    assert device.word(0).audit


def test_what_should_be_audited_and_cannot_be_is_sent(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_)
    device.hear(f"{exit_.version[:16]}.1")
    held, started = threading.Event(), threading.Event()

    def wait() -> str:
        started.set()
        assert held.wait(60)
        return ""

    device.exits.audit(wait, CUT)
    assert started.wait(60)
    for _ in range(40):
        device.exits.audit(wait, CUT)
    assert device.exits.counters()["lost"] == 40 - MAX_TASKS
    device.dice = 0.0
    assert not device.word(0).answers
    held.set()
    until(lambda: device.word(0).answers)


def test_it_expires_and_is_withdrawn(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_)
    device.hear(f"{exit_.version[:16]}.1")
    device.now = NOW + 100  # the release is over, the exit is not
    assert not device.word().answers
    assert device.exits.released(CUT) is None
    assert device.exits.wait(60.0)  # it was asked for another release
    device.now = NOW + 500
    assert device.word() is None
    device.now = NOW
    device.hear(f"{exit_.version[:16]}.1")
    assert device.word().answers
    device.exits.note(CUT, "")
    assert device.word().answers
    device.exits.note(CUT, "none")
    assert device.word() is None


def test_an_older_release_does_not_come_back(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_, make_release(exit_, 3, classes={}))
    device.hear(f"{exit_.version[:16]}.3")
    assert not device.word().answers
    device.offer(exit_, make_release(exit_, 2))
    device.exits.note(CUT, f"{exit_.version[:16]}.2")
    until(lambda: len(device.offers.paths) == 2)
    assert "/release/toy/" in device.offers.paths[1]
    until(lambda: not device.exits._tasks and device.exits._thread is None)
    assert not device.word().answers


def test_a_clock_that_is_behind_makes_no_release_last_longer(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_)
    device.now = NOW - 250
    device.hear(f"{exit_.version[:16]}.1")
    assert device.word().answers  # a little behind
    device.uptime = 99.0
    assert device.word().answers
    device.uptime = 100.0
    assert not device.word().answers
    until(lambda: device.exits._thread is None)
    device.uptime = 0.0
    device.now = 0.0
    assert not device.word().answers


def test_a_release_older_than_one_that_was_withdrawn_does_not_come_back(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_, make_release(exit_, 3, classes={}))
    device.hear(f"{exit_.version[:16]}.3")
    device.exits.note(CUT, "none")
    device.offer(exit_, make_release(exit_, 2))
    device.hear(f"{exit_.version[:16]}.2")
    assert device.word() is None
    assert device.exits.counters()["refused"] == 1
    device.offer(exit_, make_release(exit_, 3))  # a worker that knew nothing of it said "none"
    device.hear(f"{exit_.version[:16]}.3")
    assert device.word().answers


def test_the_release_before_the_end_of_an_exit_does_not_come_back(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_, make_release(exit_, 2))
    device.hear(f"{exit_.version[:16]}.2")
    assert device.word().answers
    # All classes are withdrawn: the last release is empty, and answers name none any more.
    device.offer(exit_, make_release(exit_, 3, issued=NOW + 1, classes={}))
    device.exits.note(CUT, "none")
    device.exits.note(CUT, "none")
    device.rest()
    assert len(device.offers.paths) == 2  # it is asked for once
    assert "/release/toy/" in device.offers.paths[1]
    assert device.offers.paths[1].endswith(f"/hash/{exit_.version[:16]}")
    assert device.word() is None
    device.offer(exit_, make_release(exit_, 2))
    device.hear(f"{exit_.version[:16]}.2")
    assert device.exits.counters()["refused"] == 1
    assert device.word() is None


def test_the_last_release_of_an_exit_is_noted_although_it_has_expired(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_, make_release(exit_, 2))
    device.hear(f"{exit_.version[:16]}.2")
    device.offer(exit_, make_release(exit_, 3, expires=NOW - 1, classes={}))
    device.exits.note(CUT, "none")
    device.rest()
    device.offer(exit_, make_release(exit_, 2))
    device.hear(f"{exit_.version[:16]}.2")
    assert device.word() is None


def test_a_word_of_an_end_that_is_not_true_leaves_the_release_to_be_named_again(
    device: Device,
) -> None:
    exit_ = make_exit()
    device.offer(exit_, make_release(exit_, 2))
    device.hear(f"{exit_.version[:16]}.2")
    device.exits.note(CUT, "none")
    device.rest()
    assert device.word() is None
    device.hear(f"{exit_.version[:16]}.2")
    assert device.word().answers


@pytest.mark.parametrize("what", ["fails", "forged", "other exit", "no json"])
def test_a_last_release_that_cannot_be_had_costs_nothing(
    device: Device, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, **_: Any) -> Reply:
        raise ProtocolError("no answer")

    exit_ = make_exit()
    device.offer(exit_, make_release(exit_, 2))
    device.hear(f"{exit_.version[:16]}.2")
    with monkeypatch.context() as patch:
        if what == "fails":
            patch.setattr(device.offers, "get", fail)
        elif what == "forged":
            other, _ = new_keys(tmp_path / "other")
            last = make_release(exit_, 9, classes={})
            device.offers.release = sign(last.to_bytes(), read_private_key(other))
        elif what == "other exit":
            last = make_release(exit_, 9, version="f" * 64, classes={})
            device.offers.release = sign(last.to_bytes(), device.key)
        else:
            device.offers.raw = b"{"
        device.exits.note(CUT, "none")
        device.rest()
        assert device.word() is None
    device.offers.raw = None
    device.offer(exit_, make_release(exit_, 2))
    device.hear(f"{exit_.version[:16]}.2")
    assert device.word().answers


def test_a_restarted_device_with_a_folder_takes_no_old_release(
    device: Device, tmp_path: Path
) -> None:
    def restarted(state_dir: Path | None) -> DeviceExits:
        exits = DeviceExits(
            device.offers,
            Subject("toy", None, "feed"),
            make_manifest(),
            tmp_path / "key.pub",
            state_dir=state_dir,
            clock=lambda: NOW,
            monotonic=lambda: 0.0,
        )
        exits.note(CUT, f"{exit_.version[:16]}.1")
        assert exits.wait(60.0)
        return exits

    exit_ = make_exit()
    device.offer(exit_, make_release(exit_, 3, classes={}))
    assert restarted(tmp_path / "state").counters()["fetched"] == 1
    device.offer(exit_, make_release(exit_, 2))
    assert restarted(tmp_path / "state").released(CUT) is None
    assert restarted(None).released(CUT) is not None


def test_another_version_does_not_come_back_with_an_older_release(device: Device) -> None:
    exit_, other = make_exit(), make_exit(class_ids=(0, 1, 3))
    assert exit_.version != other.version
    device.offer(exit_, make_release(exit_, issued=NOW - 1))
    device.hear(f"{exit_.version[:16]}.1")
    device.offer(other)
    device.hear(f"{other.version[:16]}.1")
    assert device.exits.version(CUT) == other.version
    device.offer(exit_, make_release(exit_, 9, issued=NOW - 1))
    device.hear(f"{exit_.version[:16]}.9")
    assert device.exits.version(CUT) == other.version


def test_a_fetch_that_a_withdrawal_overtakes_brings_nothing(device: Device) -> None:
    exit_ = make_exit()
    device.offer(exit_)
    device.offers.open.clear()
    device.exits.note(CUT, f"{exit_.version[:16]}.1")
    until(lambda: bool(device.offers.paths))
    device.exits.note(CUT, "none")
    device.offers.open.set()
    until(lambda: device.exits._thread is None)
    assert device.word() is None
    device.hear(f"{exit_.version[:16]}.1")
    assert device.word().answers


def test_without_a_thread_nothing_is_fetched_and_nothing_fails(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_ = make_exit()
    device.offer(exit_)
    device.hear(f"{exit_.version[:16]}.1")
    until(lambda: device.exits._thread is None)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    device.now = NOW + 80  # the release is to be renewed
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        assert device.word().answers
    device.uptime = 31.0
    assert device.word().answers
    until(lambda: device.exits.counters()["fetched"] >= 2)


@pytest.mark.parametrize("name", ["x", ".1", "../../../admin", "f" * 16, "f" * 16 + "/?.1"])
def test_what_names_no_release_is_not_asked_for(device: Device, name: str) -> None:
    device.exits.note(CUT, name)
    assert device.exits._thread is None
    assert device.offers.paths == []


def forged(device: Device, exit_: Exit, folder: Path) -> None:
    private, _ = new_keys(folder / "other")
    device.offers.content = sign(exit_.to_bytes(), read_private_key(private))


def truncated(device: Device, exit_: Exit, folder: Path) -> None:
    device.offers.content = device.offers.content[:-7]


def with_nan(device: Device, exit_: Exit, folder: Path) -> None:
    bias = exit_.bias.copy()
    bias[0] = np.nan
    broken = replace(exit_, bias=bias)
    device.offers.content = sign(broken.to_bytes(), device.key)


def expired_exit(device: Device, exit_: Exit, folder: Path) -> None:
    device.offers.content = sign(replace(exit_, expires=NOW - 1).to_bytes(), device.key)


def expired_release(device: Device, exit_: Exit, folder: Path) -> None:
    old = make_release(exit_, expires=NOW - 1)
    device.offers.release = sign(old.to_bytes(), device.key)


def forged_release(device: Device, exit_: Exit, folder: Path) -> None:
    private, _ = new_keys(folder / "other")
    device.offers.release = sign(make_release(exit_).to_bytes(), read_private_key(private))


def other_release(device: Device, exit_: Exit, folder: Path) -> None:
    other = make_release(exit_, version="f" * 64)
    device.offers.release = sign(other.to_bytes(), device.key)


def other_network(device: Device, exit_: Exit, folder: Path) -> None:
    device.offer(make_exit(network_hash="dead"))


def other_cut(device: Device, exit_: Exit, folder: Path) -> None:
    device.offer(make_exit(cut=Cut("double", "uint8")))


def unknown_class(device: Device, exit_: Exit, folder: Path) -> None:
    device.offer(make_exit(class_ids=(0, 1, 99)))


def no_json(device: Device, exit_: Exit, folder: Path) -> None:
    device.offers.raw = b"<html>"


def no_base64(device: Device, exit_: Exit, folder: Path) -> None:
    device.offers.raw = json.dumps({"exit": "%%%", "release": 3}).encode()


Damage = Callable[[Device, Exit, Path], None]


@pytest.mark.parametrize(
    "damage",
    [
        forged,
        truncated,
        with_nan,
        expired_exit,
        expired_release,
        forged_release,
        other_release,
        other_network,
        other_cut,
        unknown_class,
        no_json,
        no_base64,
    ],
)
def test_what_is_not_whole_or_not_its_own_is_refused(
    device: Device, damage: Damage, tmp_path: Path
) -> None:
    exit_ = make_exit()
    device.offer(exit_)
    damage(device, exit_, tmp_path)
    device.hear(f"{exit_.version[:16]}.1")
    assert device.exits.counters()["refused"] == 1
    assert device.exits.refusal(CUT)
    assert device.word() is None
    assert device.exits.version(CUT) == ""


def test_a_refusal_says_why_until_an_exit_is_taken(device: Device, tmp_path: Path) -> None:
    exit_ = make_exit()
    device.offer(exit_)
    forged(device, exit_, tmp_path)
    device.hear(f"{exit_.version[:16]}.1")
    assert "not signed with this operator's key" in device.exits.refusal(CUT)
    device.offer(exit_)
    device.hear(f"{exit_.version[:16]}.2")
    assert device.exits.refusal(CUT) == ""


def test_a_question_that_fails_costs_nothing(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, **_: Any) -> Reply:
        raise ProtocolError("no answer")

    monkeypatch.setattr(device.offers, "get", fail)
    device.hear("f" * 16 + ".1")
    assert device.exits.counters()["refused"] == 1


def test_a_device_token_that_cannot_be_had_costs_the_audit_alone(
    device: Device, connect: Callable[..., SplitClient], server: Server
) -> None:
    tokens: list[str] = []

    def token() -> str:
        if not tokens:
            raise OSError("no network")
        return tokens[0]

    client = connect(device_token=token, raw_scores=False)
    exit_ = make_exit()
    device.offer(exit_)
    device.hear(f"{exit_.version[:16]}.1")
    device.dice = 0.0  # all are audited
    network = SplitNetwork(
        client._local, client._exchange, device.exits, exits_may_answer=True, call_s=60.0
    )
    red = photo(255, 0, 0)
    client._exchange.link = LinkReport(rtt_ms=7.0)
    (answer,) = network.classify([red], CUT)
    assert (answer.path, answer.class_id) == ("exit", 0)
    assert device.exits.wait(60.0)
    counters = device.exits.counters()
    assert (counters["audited"], counters["lost"]) == (0, 1)
    assert server.state.seen == []
    with pytest.raises(AuthenticationError):
        network.classify([red], CUT, may_exit=False)
    # The next audit is sent, with what the device knew of its link at that photo.
    tokens.append("isplit1.x")
    (answer,) = network.classify([red], CUT)
    client._exchange.link = LinkReport(rtt_ms=9.0)
    assert answer.path == "exit"
    assert device.exits.wait(60.0)
    counters = device.exits.counters()
    assert (counters["audited"], counters["lost"]) == (1, 1)
    (seen,) = server.state.seen
    request = decode_request(
        seen.body,
        header_length(seen.headers),
        find_header(seen.headers, "Content-Type"),
        make_manifest(),
    )
    assert request.rtt_ms == 7.0


def test_audits_that_wait_when_the_client_is_closed_are_lost(device: Device) -> None:
    held, started = threading.Event(), threading.Event()

    def wait() -> str:
        started.set()
        assert held.wait(60)
        return ""

    device.exits.audit(wait, CUT)
    assert started.wait(60)
    for _ in range(3):
        device.exits.audit(wait, CUT)
    device.exits.note(CUT, "0123456789abcdef.1")  # a fetch waits, too, and is no audit
    device.exits.close()
    device.exits.audit(wait, CUT)  # too late
    held.set()
    assert device.exits.wait(60.0)
    counters = device.exits.counters()
    assert (counters["audited"], counters["lost"]) == (1, 4)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    manifest, subject = make_manifest(), Subject("toy")
    with pytest.raises(SecretError, match="32 bytes"):
        DeviceExits(Offers(), subject, manifest, b"short")
    with pytest.raises(SecretError, match="cannot be read"):
        DeviceExits(Offers(), subject, manifest, tmp_path / "missing.pub")
