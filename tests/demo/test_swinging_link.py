"""The demo's simulation of one device: what is in it, in the text and in the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys.client import make_manifest
from toys.serving import profile_of, toy_network

from isplit_plugin.demo.swinging_link import PHOTOS, on_a_swinging_link
from isplit_plugin.profile import Profile
from isplit_plugin.report import Page
from isplit_plugin.simulation import ADAPTIVE, ORACLE


@pytest.fixture(scope="module")
def profile() -> Profile:
    torch.manual_seed(3)
    return profile_of(
        toy_network(), torch.randn(12, 3, 16, 16), nbytes={("relu2", "uint8+zstd"): 130.0}
    )


def test_every_choice_has_its_price(profile: Profile, tmp_path: Path) -> None:
    manifest = make_manifest(deployed=())
    swinging = on_a_swinging_link(profile, manifest, slowdown=16.0, seed=0)
    policies = [result.policy for result in swinging.results]
    assert policies[-2:] == [ADAPTIVE, ORACLE]
    # Only what is deployed takes part: the photo, and the whole network on the device.
    assert {policy.split(":")[0] for policy in policies[:-2]} <= {"input", "output"}
    assert all(len(result.latencies_ms) == PHOTOS for result in swinging.results)
    text = swinging.text()
    assert "swinging trace, seed 0" in text
    assert all(policy in text for policy in policies)
    page = Page("demo", "test")
    swinging.add_to(page)
    html = page.write(tmp_path / "page.html").read_text()
    assert "One device on a link that swings" in html
    assert "<svg" in html
    assert "The adaptive client misses" in html


def test_the_same_seed_gives_the_same_story(profile: Profile) -> None:
    manifest = make_manifest(deployed=())
    first, again = (on_a_swinging_link(profile, manifest, slowdown=4.0, seed=1) for _ in range(2))
    assert first.text() == again.text()
