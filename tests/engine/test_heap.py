"""What was freed is given back to the system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from rocktok.engine.heap import _trim, give_back


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(_trim() is None, reason="needs glibc")
def test_pieces_between_arrays_in_use_are_given_back() -> None:
    # Below the size at which the C library asks the system for each array alone.
    arrays = [np.ones(12_000) for _ in range(4_000)]
    kept = arrays[::2]
    before = resident()
    arrays.clear()
    freed = resident()
    give_back()
    assert resident() < freed - 0.8 * len(kept) * 12_000 * 8
    assert freed > before * 0.9
    assert all(array.sum() == 12_000 for array in kept)


def test_it_does_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    _trim.cache_clear()
    give_back()
    monkeypatch.undo()
    _trim.cache_clear()
