"""Shared by all tests: one thread for torch, so that figures agree between runs and workers do not fight for cores."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: cores are shared, and a test must not fail because another one is running.
settings.register_profile("isplit", deadline=None)
settings.load_profile("isplit")
