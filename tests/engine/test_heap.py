"""What was freed is given back to the system, or held for what comes next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rocktok.engine.heap import _of_c, give_back, hold


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


needs_glibc = pytest.mark.skipif(_of_c("mallopt") is None, reason="needs glibc")


@needs_glibc
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


#: Page faults of arrays of 1 MiB that come and go, on the thread that a worker has for its tasks.
#: (NumPy asks for larger pages from 4 MiB on.)
FAULTS = """
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rocktok.engine.cluster import on_worker


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(1 << 17)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


with ThreadPoolExecutor(1) as thread:
    print(thread.submit(faults).result(), thread.submit(on_worker, faults).result())
"""


@needs_glibc
def test_what_a_task_frees_is_held_for_its_next_arrays_whatever_dask_has_set() -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    page_by_page, held = map(int, run.stdout.split())
    pages = (1 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert page_by_page > 40 * pages
    assert held < 4 * pages


def test_it_does_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    _of_c.cache_clear()
    hold.cache_clear()
    give_back()
    hold()
    monkeypatch.undo()
    _of_c.cache_clear()
    hold.cache_clear()
