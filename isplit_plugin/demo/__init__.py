"""The demo: one run of the whole product on a real ImageNet network, real photos and a real TorchServe."""

from __future__ import annotations

__all__: list[str] = []  # run it by `isplit demo`; its device's process imports no torch
