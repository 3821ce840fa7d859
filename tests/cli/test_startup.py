"""What a command loads, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rocktok.cli.startup import lighten, share_one_heap
from tests.paths import SAMPLE


def loaded(*arguments: str) -> set[str]:
    """Modules that a command loads, by Python's own account."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rocktok", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_a_command_does_not_load_what_it_does_not_use() -> None:
    modules = loaded("detect", str(SAMPLE), "--format", "csv", "--quiet")
    # What is looked for stands where it would be seen.
    assert {"numpy", "scipy.special", "pyarrow.csv", "rocktok.tables.encode"} <= modules
    assert not modules & {"pandas.core", "numpy.f2py.crackfortran", "scipy.stats", "numba"}


def test_a_small_log_is_read_without_the_functions_of_arrow() -> None:
    assert "pyarrow.compute" not in loaded("detect", str(SAMPLE), "--quiet")


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has heaps to share")
def test_analyses_share_a_heap_that_keeps_what_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: object) -> None:
            assert name is None

        def mallopt(self, parameter: int, value: int) -> None:
            called.append((parameter, value))

    monkeypatch.setattr("ctypes.CDLL", Library)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    share_one_heap(["rescore", "runs/opd"])
    assert called == []
    share_one_heap(["detect", "runs/opd"])
    # M_ARENA_MAX, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h.
    assert called == [(-8, 1), (-1, 1 << 28), (-3, 1 << 25)]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    share_one_heap(["detect", "runs/opd"])
    assert len(called) == 3


def test_commands_that_run_models_find_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.meta_path)
    monkeypatch.setattr(sys, "meta_path", list(before))
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    lighten(["rescore", "runs/opd"])
    assert sys.meta_path == before
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    lighten(["detect", "runs/opd"])
    assert sys.meta_path[1:] == before
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert os.environ["MKL_NUM_THREADS"] == "3"


def test_what_is_loaded_late_is_whole() -> None:
    code = (
        "import sys; from rocktok.cli.startup import lighten; lighten([])\n"
        "import numpy; print('numpy.testing._private' in sys.modules)\n"
        "numpy.testing.assert_array_equal([1], [1]); print(numpy.f2py.run_main is not None)\n"
        "import pyarrow.parquet, pyarrow as pa; print(pa.array(numpy.ones(1)).to_pylist())\n"
        "print('pandas' in sys.modules); import pandas; print(len(pandas.DataFrame([{'a': 1}])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "[1.0]", "False", "1"], done.stderr
