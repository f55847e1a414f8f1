"""NumPy's matrix products and decompositions in one thread.

At the sizes of probes one thread is as fast as several: eigenvectors of 512 x 512 take 0.03 s in one, 0.1 s in two. Where other
work takes the cores the several wait for each other without rest, and the same takes 4 s.
"""

import contextlib
import functools

from threadpoolctl import ThreadpoolController


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> contextlib.AbstractContextManager:
    """Within it NumPy and SciPy use one thread for linear algebra."""
    return _controller().limit(limits=1, user_api="blas")
