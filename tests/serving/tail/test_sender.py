"""Who sent a request: the token in the body, the header of the forwarder, and revoked devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys.serving import Ask, Worker, answer_of, ask_of, head_of, tensor_request

from isplit_plugin.device_tokens import (
    DEVICE_HEADER,
    issue,
    new_secret,
    read_secret,
    revoke,
    revoked_path,
)
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.schema import Manifest
from isplit_plugin.traffic import Store


@pytest.fixture
def secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = new_secret(tmp_path / "device.secret")
    monkeypatch.setenv("ISPLIT_SECRET_FILE", str(path))
    return path


@pytest.fixture
def identified(secret_file: Path, model_dir: Path, store_url: str) -> Iterator[Worker]:
    loaded = Worker(model_dir)
    yield loaded
    loaded.close()


def ask(
    net: CapturedNetwork, manifest: Manifest, token: str | None, header: str | None = None
) -> Ask:
    values = head_of(net, "relu1", torch.zeros(1, 3, 16, 16))
    request = tensor_request(
        values, "relu1", network_hash=manifest.network_hash, device_token=token
    )
    made = ask_of(request)
    return (
        made if header is None else replace(made, headers={**made.headers, DEVICE_HEADER: header})
    )


def test_the_forwarders_header_outranks_the_body(
    identified: Worker, net: CapturedNetwork, manifest: Manifest, secret_file: Path
) -> None:
    token = issue(read_secret(secret_file), "cam", days=1)
    asks = (ask(net, manifest, None, token), ask(net, manifest, "isplit1.x.y", token))
    assert [answer_of(reply).device for reply in identified(*asks)] == ["ok", "ok"]
    (forged,) = identified(ask(net, manifest, token, "isplit1.x.y"))
    assert answer_of(forged).device.startswith("invalid")


def test_a_group_in_the_token_is_counted_as_a_signed_one(
    identified: Worker,
    net: CapturedNetwork,
    manifest: Manifest,
    secret_file: Path,
    store_url: str,
) -> None:
    token = issue(read_secret(secret_file), "cam", days=1, group="fleet")
    identified(ask(net, manifest, None, token), ask(net, manifest, None))
    identified.close()
    with Store(store_url) as store:
        groups = store.groups(manifest.network_hash)
        assert {(group.name, group.signed) for group in groups} == {
            ("all", False),
            ("fleet", True),
        }


def test_a_revoked_token_grants_no_identity(
    identified: Worker, net: CapturedNetwork, manifest: Manifest, secret_file: Path
) -> None:
    token = issue(read_secret(secret_file), "cam", days=1)
    asks = (ask(net, manifest, token), ask(net, manifest, None, token))
    assert [answer_of(reply).device for reply in identified(*asks)] == ["ok", "ok"]
    revoke(revoked_path(secret_file), ["cam"])
    assert [answer_of(reply).device for reply in identified(*asks)] == ["invalid: revoked"] * 2
