"""Where the runs of equal neighbours in a column begin: rows of a sequence, or of a prompt.

Array suffixes: N rows; R runs.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np

from rocktok._types import Array

#: The column that a thread was asked about last, and its runs: all that look at a batch ask.
_last = threading.local()


def run_starts(column_N: Array) -> Array:
    """(R,) int64, the rows that begin a run of equal values, the first one included.

    Remembered for the column that was asked about last: it must not be changed in place.
    """
    last = getattr(_last, "column", None)
    if last is None or last() is not column_N:
        new_N = np.ones(len(column_N), dtype=bool)
        np.not_equal(column_N[1:], column_N[:-1], out=new_N[1:])
        remember(column_N, np.flatnonzero(new_N))
    starts: Array = _last.starts
    return starts


def remember(column_N: Array, start_R: Array) -> None:
    """Remember where the runs of a column begin, if that is known."""
    start_R.flags.writeable = False
    _last.column, _last.starts = weakref.ref(column_N), start_R
