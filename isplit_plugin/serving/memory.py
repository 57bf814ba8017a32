"""The memory of a worker that runs for months: what it loaded is kept apart from what comes and
goes.
"""

from __future__ import annotations

import gc


def keep_loaded() -> None:
    """Take everything that exists now out of Python's garbage collection. For a loaded worker.

    Libraries and network are some 300,000 objects that live as long as the process. As long as the
    collector counts them, a full collection waits until a quarter as many new ones are there, so
    that cyclic garbage of the database library adds up to megabytes. And each full collection
    holds up a request for as long as it takes to look at them all, tenths of a second.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # with nothing left to look at, it forgets how many objects there were
