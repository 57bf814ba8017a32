"""The threads of a worker's linear algebra in numpy, beside those of torch."""

from __future__ import annotations

from threadpoolctl import threadpool_limits


def use_one_blas_thread() -> None:
    """Let numpy's matrix products run on the thread that asks for them, from now on.

    Those of a request take half a millisecond on one thread. Where a second one waits for a busy
    core, and a server's cores are busy, they take 15: the first one spins until it is there.
    """
    threadpool_limits(limits=1, user_api="blas")
