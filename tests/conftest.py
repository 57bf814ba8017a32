"""Shared by all tests: one thread for torch, so that figures agree between runs and workers do not fight for cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
