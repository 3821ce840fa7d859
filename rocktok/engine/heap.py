"""Memory that was freed: given back to the system, or held for the next arrays."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

#: Arrays from here on are mapped each for itself, and given back when they are freed: glibc's own
#: upper bound.
MAPPED_BYTES = 1 << 25

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def give_back() -> None:
    """Let go of what the C library and Arrow hold free: pieces between arrays in use, too.

    What an analysis frees is otherwise held for allocations of its size, which others do not make.
    Of the C library's nothing without glibc.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    trim = _of_c("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def hold() -> None:
    """Let the C library hold what arrays free for the next ones: once, for good, in a worker.

    Dask starts workers with `MALLOC_TRIM_THRESHOLD_`. Every array above 128 KiB is then mapped
    anew, page by page, which takes a light pass a quarter of its processor time. These are the
    bounds that the library comes to by itself where that is not set; processes of `rocktok` set
    theirs as they begin.
    """
    mallopt = _of_c("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * MAPPED_BYTES)


@cache
def _of_c(name: str) -> Any:
    """A function of glibc; None without."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
