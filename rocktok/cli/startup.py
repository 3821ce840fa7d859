"""What libraries would load or start with a command, and no analysis of ours uses.

On a log of a few thousand positions that took longer than the analysis.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

#: Commands that run models: what their libraries use is for these to say.
_OF_MODELS = {"rescore", "intervene"}

#: SciPy asks NumPy for all of its names; with these two, a Fortran parser and a test framework.
_LATE = {"numpy.f2py", "numpy.testing"}


#: Products are small and the engine has threads of its own: those of the libraries would wait for
#: one another, busily, most of all on a machine that has other work.
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

#: Loaded after pyarrow itself.
_OF_PYARROW = "pyarrow.parquet"


class _Hidden:
    """Finds no pandas."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is hidden from pyarrow", name=fullname)


def _without_pandas() -> None:
    """Let pyarrow look for pandas where it finds none: it looks once.

    It would load all of it to see whether the first array that it is given is a Series.
    """
    import pyarrow

    hidden = _Hidden()
    sys.meta_path.insert(0, hidden)
    try:
        pyarrow.array([])
    finally:
        sys.meta_path.remove(hidden)


class _Late:
    """Finds some modules as they are, to be loaded when first used."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == _OF_PYARROW and "pandas" not in sys.modules:
            _without_pandas()
        if fullname not in _LATE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def lighten(arguments: Sequence[str]) -> None:
    """Keep the libraries of this process from loading or starting what no analysis uses.

    Before NumPy is imported, and only for a process that is ours: pyarrow takes no pandas objects
    in it.
    """
    if not _OF_MODELS.isdisjoint(arguments):
        return
    for variable in _THREADS:
        os.environ.setdefault(variable, "1")
    sys.meta_path.insert(0, _Late())


#: Of glibc (malloc.h): how many heaps threads may make; bytes free at the end of the heap above
#: which it shrinks; bytes from which an array has pages of its own, 32 MiB at most.
_ARENA_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3
_HEAP = {_ARENA_MAX: 1, _TRIM_THRESHOLD: 1 << 28, _MMAP_THRESHOLD: 1 << 25}


def share_one_heap(arguments: Sequence[str]) -> None:
    """Let all threads of this process take memory from one heap, where the C library has several.

    What a thread frees is else of no use to another, and a pass with two threads takes a quarter
    more memory. The heap keeps what is freed, as the next batch needs as much again: pages that
    come and go were a tenth of the processor time on large logs. The largest arrays have pages of
    their own, so nothing waits. As a process begins, and only for one that is ours and runs no
    models; the environment variable of glibc has precedence.
    """
    if sys.platform != "linux" or "MALLOC_ARENA_MAX" in os.environ:
        return
    if not _OF_MODELS.isdisjoint(arguments):
        return
    import ctypes

    # Other C libraries lack it, and have no such heaps.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _HEAP.items():
            mallopt(parameter, value)
