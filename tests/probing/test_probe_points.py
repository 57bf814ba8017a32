"""Where probes make sense, and what the operator hears who turns them on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from isplit_plugin.errors import ProbeError
from isplit_plugin.network import CapturedNetwork
from isplit_plugin.probing.points import probe_warnings, why_no_probe
from isplit_plugin.serving.packaging import Built
from isplit_plugin.serving.settings import ProbeSettings

ON = ProbeSettings(enabled=True)


def test_why_not(net: CapturedNetwork) -> None:
    assert why_no_probe(net, "conv1") is None
    assert why_no_probe(net, "relu1") is None
    assert why_no_probe(net, "conv2") is None  # a ReLU comes behind it
    for linear in ("relu2", "pool", "flatten"):
        assert "linear" in str(why_no_probe(net, linear))
    assert "whole curve by itself" in str(why_no_probe(net, "input"))
    assert "bottleneck" in str(why_no_probe(net, "relu1-8x-1a2b3c"))


def test_what_packaging_says(net: CapturedNetwork, built: Built) -> None:
    manifest = built.manifest
    assert probe_warnings(net, manifest, ProbeSettings(), pt2=False) == ()
    (linear,) = probe_warnings(net, manifest, ON, pt2=True)
    assert linear.startswith("no probes at 'relu2'")
    assert "no torch heads" in probe_warnings(net, manifest, ON, pt2=False)[-1]
    with pytest.raises(ProbeError, match="no deployed split point can have probes"):
        probe_warnings(net, replace(manifest, deployed=("relu2", "flatten")), ON, pt2=True)
