"""``python -m isplit_plugin`` is the command ``isplit``."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
