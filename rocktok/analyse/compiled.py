"""Loops compiled by numba, and the care for their compiled code on disk.

Importing this module imports numba (a third of a second): `rocktok.analyse.kernels`, which holds
what callers use, does so when it first needs one of these. The loops check nothing: every index
must be in range, every array of the dtype that is named here.

Array suffixes: N rows of a log; V token ids; B bins; E entries of sparse rows; R distinct rows of
ours; T distinct rows of theirs (in a block); C columns; P postings; K slots of the head;
L lanes; U, S units (a distinct row under a label) of ours and of theirs.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from rocktok.errors import RocktokWarning

Array = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

#: Rows of theirs that are looked at together: fixed, so that the loops over them vectorise.
LANES = 64

_LOCK = threading.RLock()
_warned = False


def _jit(function: Callable[..., Any], *, cache: bool) -> Any:
    # error_model: 0/0 is NaN, as in NumPy, and nothing raises inside a loop.
    return numba.njit(nogil=True, cache=cache, error_model="numpy")(function)


def part(function: Function) -> Function:
    """Decorator: compiled into the kernels that call it, never by itself."""
    return cast(Function, _jit(function, cache=False))


class Kernel:
    """A function that is compiled when it is first called, and kept on disk where that is possible.

    Decorator. Where the cache of compiled code cannot be written or read, the function is compiled
    for this process alone, and the first such warns with `RocktokWarning`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._dispatcher: Any = None
        self._signatures: set[Any] = set()

    def __call__(self, *arguments: Any) -> Any:
        """Run it, without the interpreter lock."""
        signature = tuple(numba.typeof(argument) for argument in arguments)
        if signature not in self._signatures:
            with _LOCK:
                self._compile(signature)
        return self._dispatcher(*arguments)

    def _compile(self, signature: tuple[Any, ...]) -> None:
        # Cache files are pickles: damaged ones raise anything.
        try:
            if self._dispatcher is None:
                self._dispatcher = _jit(self.function, cache=True)
            self._dispatcher.compile(signature)
            self._signatures.add(signature)
        except Exception as error:
            where = self._dispatcher.stats.cache_path if self._dispatcher else None
            self._dispatcher = _jit(self.function, cache=False)
            self._dispatcher.compile(signature)
            self._signatures = {signature}
            _warn(error, where)


def _warn(error: Exception, where: str | None) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    place = f"the cache in {where} cannot be used" if where else "there is no place for a cache"
    remedy = "delete its *.nbi and *.nbc files or set" if where else "set"
    warnings.warn(
        f"compiled code is not kept on disk, every process will compile for some seconds: {place} "
        f"({reason}); {remedy} NUMBA_CACHE_DIR to a directory that can be written",
        RocktokWarning,
        stacklevel=4,
    )


@Kernel
def sum_one(token_N: Array, x_N: Array, count_V: Array, sum_V: Array, square_V: Array) -> None:
    """`kernels.type_sums` of one column."""
    for i in range(len(token_N)):
        v = token_N[i]
        x = np.float64(x_N[i])
        count_V[v] += 1
        sum_V[v] += x
        square_V[v] += x * x


@Kernel
def sum_two(
    token_N: Array,
    x_N: Array,
    y_N: Array,
    count_V: Array,
    sum_V: Array,
    square_V: Array,
    sum2_V: Array,
    square2_V: Array,
) -> None:
    """`kernels.type_sums` of two columns."""
    for i in range(len(token_N)):
        v = token_N[i]
        x, y = np.float64(x_N[i]), np.float64(y_N[i])
        count_V[v] += 1
        sum_V[v] += x
        square_V[v] += x * x
        sum2_V[v] += y
        square2_V[v] += y * y


@part
def _ordered(bits: np.uint32) -> np.uint32:
    sign = np.uint32(0x80000000)
    if bits == sign:
        return sign
    return ~bits if bits & sign else bits | sign


@Kernel
def upper_half(bits_N: Array, count_B: Array) -> None:
    """Count the upper 16 ordered bits of float32 values, given as uint32."""
    for i in range(len(bits_N)):
        count_B[_ordered(bits_N[i]) >> np.uint32(16)] += 1


@Kernel
def lower_half(bits_N: Array, prefix: np.uint32, count_B: Array) -> None:
    """Count the lower 16 ordered bits of the values whose upper ones are `prefix`."""
    for i in range(len(bits_N)):
        ordered = _ordered(bits_N[i])
        if ordered >> np.uint32(16) == prefix:
            count_B[ordered & np.uint32(0xFFFF)] += 1
