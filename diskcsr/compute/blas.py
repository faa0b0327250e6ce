"""Threads of BLAS, which is not ours to set up."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..loading import load

__all__ = ["one_blas_thread"]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have BLAS work in one thread, where threadpoolctl is installed; scikit-learn brings it.

    Of matrices of some hundred columns more threads gain little, and OpenBLAS's wait for each other
    by spinning: beside one other busy process they take fifty times as long.
    """
    try:
        controller = load("threadpoolctl").ThreadpoolController()
    except ImportError:
        yield
        return
    with controller.limit(limits=1, user_api="blas"):
        yield
