"""Compiled code on disk: kept, made anew where it is damaged, never in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.errors import RocktokWarning

SUMS = """
import sys, warnings
import numpy as np
from rocktok.stats import kernels
assert "numba" not in sys.modules and "scipy" not in sys.modules
token_N, x_N = np.array([0, 1, 1], np.int32), np.array([1, 2, 4], np.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        table_VS = np.zeros((2, 3))
        kernels.type_sums(token_N, [x_N], table_VS)
        assert table_VS.tolist() == [[1, 1, 1], [2, 6, 20]], table_VS
        bins = np.zeros(1 << 16, np.int64)
        kernels.histogram16(x_N, None, bins)
        assert bins.sum() == 3
from rocktok.stats import loops
print(len(caught), sum(loops.sum_one._dispatcher.stats.cache_hits.values()))
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def install(folder: Path) -> Path:
    """A copy of the package, as if installed, with room for compiled code beside it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(rocktok.__file__).parent, folder / "lib" / "rocktok", ignore=ignore)
    return folder


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    return install(tmp_path)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed package with its compiled code in cache/."""
    folder = install(tmp_path_factory.mktemp("compiled"))
    assert run_sums(folder, str(folder / "cache")) == ["0 0"]
    assert run_sums(folder, str(folder / "cache")) == ["0 1"]
    return folder


def run_sums(root: Path, cache: str | None, before: str = "") -> list[str]:
    """Lines: number of warnings and cache hits; then the warnings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    environment |= {"PYTHONPATH": str(root / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    # No user-wide cache either: its place is a file.
    (root / "file").write_text("")
    environment |= {"XDG_CACHE_HOME": str(root / "file"), "HOME": str(root / "file")}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    done = subprocess.run(
        [sys.executable, "-c", before + SUMS],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_compiled_code_is_kept(compiled: Path) -> None:
    assert list((compiled / "cache").rglob("loops.sum_one-*.nbc"))
    # It is found in a copy, too.
    shutil.copytree(compiled / "cache", compiled / "copy")
    assert run_sums(compiled, str(compiled / "copy")) == ["0 1"]


def test_what_is_compiled_loads_without_linear_algebra(compiled: Path) -> None:
    """Numba asks SciPy for it, to compile what nothing here calls; that takes 0.3 s."""
    shutil.copytree(compiled / "cache", compiled / "light")
    told = "import atexit, sys\natexit.register(lambda: print('scipy.linalg' in sys.modules))\n"
    assert run_sums(compiled, str(compiled / "light"), before=told) == ["0 1", "False"]
    assert run_sums(compiled, str(compiled / "anew"), before=told) == ["0 0", "True"]


def test_arrays_alike_to_numba_share_compiled_code() -> None:
    """A view and what owns its data are two forms of a call, and one signature."""
    from rocktok import kernel
    from rocktok.stats import loops

    summed = kernel.Kernel(loops.sum_one.function)
    rows_N, x_N = np.array([1], np.int32), np.array([3], np.float32)
    for tokens_N in (rows_N, rows_N[:], np.array([1, 1], np.int32)[1:]):
        table_VS = np.zeros((2, 3))
        summed(tokens_N, x_N, table_VS)
        assert table_VS.tolist() == [[0, 0, 0], [1, 3, 9]]
    assert len(summed._forms) == 2
    assert len(summed._dispatcher.overloads) == len(summed._dispatcher.signatures) == 1


def test_a_numba_that_loads_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import FunctionCache

    from rocktok import kernel
    from rocktok.stats import kernels, loops

    real = FunctionCache._load_overload

    def renamed(self: Any, signature: Any, context: Any) -> Any:
        if sys._getframe(1).f_code.co_name == "_loaded":
            raise AttributeError
        return real(self, signature, context)

    monkeypatch.setattr(FunctionCache, "_load_overload", renamed)
    monkeypatch.setattr(loops, "sum_one", kernel.Kernel(loops.sum_one.function))
    table_VS = np.zeros((2, 3))
    kernels.type_sums(np.array([1], np.int32), [np.array([3], np.float32)], table_VS)
    assert table_VS.tolist() == [[0, 0, 0], [1, 3, 9]]


@pytest.mark.long
@pytest.mark.parametrize(
    "cache",
    [None, *(pytest.param(to, marks=pytest.mark.long) for to in ("file", "file/below", "/proc/r"))],
)
def test_no_place_for_compiled_code(installed: Path, cache: str | None) -> None:
    (installed / "lib" / "rocktok" / "stats" / "__pycache__").write_text("in the way")
    place = str(installed / cache) if cache else None
    first, *warned = run_sums(installed, place)
    assert first == "1 0"
    assert len(warned) == 1
    assert warned[0].startswith("RocktokWarning compiled code is not cached on disk")
    assert "set NUMBA_CACHE_DIR to a directory that can be written" in warned[0]


@pytest.mark.long
def test_another_place_will_do(installed: Path) -> None:
    assert run_sums(installed, "/proc/rocktok") == ["0 0"]
    assert list((installed / "lib").rglob("loops.sum_one-*.nbc"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        pytest.param("nbi", b"", id="empty index"),
        pytest.param("nbi", b"garbage", id="garbage index", marks=pytest.mark.long),
        pytest.param("nbc", b"garbage", id="garbage code", marks=pytest.mark.long),
        pytest.param("nbc", None, id="truncated code"),
    ],
)
def test_a_damaged_cache(compiled: Path, suffix: str, damage: bytes | None) -> None:
    """It is made anew, without a word; as one that another version of rocktok left."""
    cache = compiled / "damaged"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(compiled / "cache", cache)
    for path in cache.rglob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert run_sums(compiled, str(cache)) == ["0 0"]
    assert run_sums(compiled, str(cache)) == ["0 1"]


@pytest.mark.long
def test_a_damaged_cache_that_cannot_be_removed(compiled: Path) -> None:
    cache = compiled / "stays"
    shutil.copytree(compiled / "cache", cache)
    for path in cache.rglob("*.nbi"):
        path.unlink()
        path.mkdir()
    first, *warned = run_sums(compiled, str(cache))
    assert first == "1 0"
    assert len(warned) == 1 and "cannot be used" in warned[0] and str(cache) in warned[0]
    assert "delete its *.nbi and *.nbc files" in warned[0]


@pytest.mark.long
def test_a_disk_that_fills_up(installed: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    first, *warned = run_sums(installed, str(installed / "cache"), before=limit)
    assert first == "1 0" and len(warned) == 1
    assert run_sums(installed, str(installed / "cache")) == ["0 0"]


def test_an_error_in_the_code_is_no_matter_of_the_cache() -> None:
    from numba.core.errors import TypingError

    from rocktok import kernel

    def broken(x: Any) -> Any:
        return x.no_such_thing

    with warnings.catch_warnings():
        warnings.simplefilter("error", RocktokWarning)
        with pytest.raises(TypingError):
            kernel.Kernel(broken)(np.zeros(1))


def test_packing_is_of_our_loops_alone() -> None:
    import numba

    from rocktok import kernel

    before: int = numba.config.SLP_VECTORIZE
    during = []
    for wanted in (True, False):
        with kernel._packing(wanted):
            during.append(numba.config.SLP_VECTORIZE)
    assert during == [1, before]
    with pytest.raises(ZeroDivisionError), kernel._packing(True):
        _ = 1 / 0
    assert before == numba.config.SLP_VECTORIZE
