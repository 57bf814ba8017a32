"""One package with torch heads and probes on; workers, a store and a secret for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from toys.probing import Bridge, bridge
from toys.serving import CLASSES, PREPROCESSING, Worker, profile_of, toy_network, unpack

from isplit_plugin.device_tokens import new_secret
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.profile import Profile
from isplit_plugin.serving.packaging import Built, build_archive, package
from isplit_plugin.traffic import Store

CONFIG: dict[str, Any] = {
    "sampling": 0.0,
    "probes": {"enabled": True, "cpu_budget": 1.0, "rate": 1.0},
}


@pytest.fixture(scope="session")
def net() -> CapturedNetwork:
    return toy_network()


@pytest.fixture(scope="session")
def profile(net: CapturedNetwork) -> Profile:
    torch.manual_seed(3)
    return profile_of(
        net,
        torch.randn(40, 3, 16, 16),
        nbytes={("relu1", "fp32"): 1024.0, ("relu2", "uint8"): 130.0},
    )


@pytest.fixture(scope="session")
def built(
    net: CapturedNetwork, profile: Profile, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    made = package(
        net,
        profile=profile,
        preprocessing=PREPROCESSING,
        classes=CLASSES,
        deployed=["relu1", "relu2"],
        pt2=True,
        include_output=False,
        config={"isplit": CONFIG},
        out_dir=tmp_path_factory.mktemp("model_store"),
    )
    assert [w for w in made.warnings if "probes" in w] == [
        "no probes at 'relu2': behind 'relu2' the network is linear: its gradient would be a row of the weights"
    ]
    return made


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = new_secret(tmp_path / "device.secret")
    monkeypatch.setenv("ISPLIT_SECRET_FILE", str(path))
    return path


@pytest.fixture
def start(
    built: Built, net: CapturedNetwork, profile: Profile, store_url: str, tmp_path: Path
) -> Iterator[Callable[..., Bridge]]:
    """Start tail and endpoint; keywords change the tail's settings.

    The store knows the network already.
    """
    with ExitStack() as stack:

        def begin(*, probes: Mapping[str, Any] | None = None, **settings: Any) -> Bridge:
            archive = built.archive
            if probes or settings:
                section = {**CONFIG, **settings, "probes": {**CONFIG["probes"], **(probes or {})}}
                archive = build_archive(
                    net,
                    manifest=built.manifest,
                    profile=profile,
                    config={"isplit": section},
                    out_dir=tmp_path / "changed",
                )
            with Store(store_url) as store:
                store.put_network(built.manifest, profile)
            tail = Worker(unpack(archive, tmp_path / "tail"))
            stack.callback(tail.close)
            endpoint = Worker(unpack(built.endpoint, tmp_path / "endpoint"))
            stack.callback(endpoint.close)
            return stack.enter_context(bridge(tail, endpoint))

        yield begin


@pytest.fixture
def served(secret: Path, start: Callable[..., Bridge]) -> Bridge:
    """Tail and endpoint with probes on and a secret."""
    return start()
