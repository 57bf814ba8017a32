"""The recommendation endpoint: the worker of the model `isplit`, which reads the store and answers
questions.
"""

from __future__ import annotations

from ..memory import keep_loaded
from .service import Endpoint

__all__ = ["Endpoint", "keep_loaded"]
