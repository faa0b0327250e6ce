"""Kernels of the planner: `diskcsr.kernels.planning`, compiled."""

from . import planning
from .caching import njit

__all__ = ["plan_ranges", "plan_rows", "split_ranges"]

plan_ranges = njit(cache=True, nogil=True)(planning.plan_ranges)
split_ranges = njit(cache=True, nogil=True)(planning.split_ranges)


@njit(cache=True, nogil=True)
def plan_rows(lo, hi, dst, max_gap, max_range, longest):
    """Merge row spans by `plan_ranges`, and cut what results by `split_ranges`."""
    range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst = plan_ranges(
        lo, hi, dst, max_gap, max_range
    )
    return split_ranges(range_lo, range_hi, range_ptr, piece_lo, piece_hi, piece_dst, longest)
