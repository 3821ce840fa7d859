"""The compile layer: numba, its cache on disk, what happens without one; the simpler loops.

Importing this module imports numba (a third of a second): `rocktok.analyse.kernels`, which holds
what callers use, does so when it first needs a loop. Loops check nothing: indices must be in range.

Array suffixes: N rows of a log, or windows; V token ids; B bins; E entries of sparse rows; R rows
taken; G groups of equal rows; K offsets of a window.
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

_LOCK = threading.RLock()
_warned = False


def _jit(function: Callable[..., Any], **options: bool) -> Any:
    # error_model: 0/0 is NaN, as in NumPy, and nothing raises inside a loop. No fast maths: sums
    # keep their order, and multiplication and addition are rounded apart.
    return numba.njit(nogil=True, error_model="numpy", **options)(function)


def part(function: Function) -> Function:
    """Decorator: compiled into the kernels that call it, never by itself."""
    # A call that is not inlined counts references to every array that it passes, atomically.
    return cast(Function, _jit(function, forceinline=True))


class Kernel:
    """Decorator: a function that is compiled when first called, and kept on disk where possible.

    Numba looks for a place in NUMBA_CACHE_DIR, beside the source, and in the user's cache. Where
    there is none, or what lies there cannot be read, the function is compiled for this process
    alone; the first time warns with `RocktokWarning`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._dispatcher: Any = None
        self._forms: set[Any] = set()

    def __call__(self, *arguments: Any) -> Any:
        """Run it, without the interpreter lock."""
        form = _form(arguments)
        if form not in self._forms:
            with _LOCK:
                self._compile(tuple(numba.typeof(argument) for argument in arguments))
                self._forms.add(form)
        return self._dispatcher(*arguments)

    def _compile(self, signature: tuple[Any, ...]) -> None:
        # Cache files are pickles: damaged ones raise anything.
        try:
            if self._dispatcher is None:
                self._dispatcher = _jit(self.function, cache=True)
            self._dispatcher.compile(signature)
        except Exception as error:
            where = self._dispatcher.stats.cache_path if self._dispatcher else None
            self._dispatcher = _jit(self.function, cache=False)
            self._dispatcher.compile(signature)
            _warn(error, where)


def _form(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What numba compiles for, far faster to tell than its own types."""
    return tuple(
        (a.dtype.num, a.ndim, a.flags.num)
        if isinstance(a, np.ndarray)
        else (type(a), _form(a) if isinstance(a, tuple) else None)
        for a in arguments
    )


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
def sum_one(token_N: Array, x_N: Array, table_VS: Array) -> None:
    """`kernels.type_sums` of one column."""
    for i in range(len(token_N)):
        # Unsigned, or every access tests for an index from the end.
        v = np.uint32(token_N[i])
        x = np.float64(x_N[i])
        table_VS[v, 0] += 1.0
        table_VS[v, 1] += x
        table_VS[v, 2] += x * x


@Kernel
def sum_two(token_N: Array, x_N: Array, y_N: Array, table_VS: Array) -> None:
    """`kernels.type_sums` of two columns."""
    for i in range(len(token_N)):
        v = np.uint32(token_N[i])
        x, y = np.float64(x_N[i]), np.float64(y_N[i])
        # All loads before all stores: the compiler cannot know that it may reorder them.
        count, sum_x, sum_xx = table_VS[v, 0], table_VS[v, 1], table_VS[v, 2]
        sum_y, sum_yy = table_VS[v, 3], table_VS[v, 4]
        table_VS[v, 0] = count + 1.0
        table_VS[v, 1] = sum_x + x
        table_VS[v, 2] = sum_xx + x * x
        table_VS[v, 3] = sum_y + y
        table_VS[v, 4] = sum_yy + y * y


@Kernel
def sum_prompts(
    table_V: Array, token_N: Array, place_N: Array, loss_N: Array, sum_TP: Array
) -> None:
    """`kernels.sums_by_prompt`."""
    last = len(table_V) - 1
    for i in range(len(token_N)):
        v = np.int64(token_N[i])
        at = table_V[v] if v < last else -1
        if at >= 0:
            sum_TP[0, at, place_N[i]] += 1.0
            sum_TP[1, at, place_N[i]] += np.float64(loss_N[i])


@Kernel
def weigh(sum_TP: Array, weight_PW: Array, sum_TW: Array) -> None:
    """`kernels.weigh`."""
    width = weight_PW.shape[1]
    count_W, loss_W = np.empty(width), np.empty(width)
    for t in range(sum_TP.shape[1]):
        count_W[:] = 0.0
        loss_W[:] = 0.0
        for p in range(sum_TP.shape[2]):
            count, loss = sum_TP[0, t, p], sum_TP[1, t, p]
            if count == 0.0:
                continue
            for k in range(width):
                weight = np.float64(weight_PW[p, k])
                count_W[k] += count * weight
                loss_W[k] += loss * weight
        for k in range(width):
            sum_TW[0, t, k] += count_W[k]
            sum_TW[1, t, k] += loss_W[k]


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


class Rows(NamedTuple):
    """Sparse rows: ascending column ids, float64 values, and the size of each row."""

    ptr_R: Array
    column_E: Array
    value_E: Array
    size_R: Array


@Kernel
def encode(window_NK: Array, by_offset: bool, ptr_N: Array, key_E: Array, count_E: Array) -> None:
    """Ascending distinct keys ≥ 0 of each window, with counts: tokens, or token·K + offset."""
    width = window_NK.shape[1]
    at = 0
    for i in range(len(window_NK)):
        begin = at
        for k in range(width):
            key = np.int64(window_NK[i, k])
            if key < 0:
                continue
            key = key * width + k if by_offset else key
            j = at
            while j > begin and key_E[j - 1] > key:
                j -= 1
            if j > begin and key_E[j - 1] == key:
                count_E[j - 1] += 1
                continue
            for m in range(at, j, -1):
                key_E[m], count_E[m] = key_E[m - 1], count_E[m - 1]
            key_E[j], count_E[j] = key, 1
            at += 1
        ptr_N[i + 1] = at


@part
def _mixed(state: np.uint64, word: np.int64) -> np.uint64:
    state = (state ^ np.uint64(word)) * np.uint64(0x9E3779B97F4A7C15)
    return state ^ (state >> np.uint64(29))


@Kernel
def hash_rows(rows: Rows, bits_E: Array, hash_R: Array) -> None:
    """Hash columns and values (`bits_E`: the values as int64)."""
    for i in range(len(hash_R)):
        state = np.uint64(0)
        for e in range(rows.ptr_R[i], rows.ptr_R[i + 1]):
            state = _mixed(_mixed(state, rows.column_E[e]), bits_E[e])
        hash_R[i] = state


@part
def _equal(rows: Rows, i: int, j: int) -> bool:
    here, there = rows.ptr_R[i], rows.ptr_R[j]
    length = rows.ptr_R[i + 1] - here
    if length != rows.ptr_R[j + 1] - there or rows.size_R[i] != rows.size_R[j]:
        return False
    for e in range(length):
        if rows.column_E[here + e] != rows.column_E[there + e]:
            return False
        if rows.value_E[here + e] != rows.value_E[there + e]:
            return False
    return True


@Kernel
def group_rows(rows: Rows, hash_R: Array, order_R: Array, group_R: Array, first_G: Array) -> int:
    """Number equal rows alike; `order_R` sorts by hash. Returns how many groups there are."""
    groups = 0
    for at in range(len(order_R)):
        i = order_R[at]
        if groups and hash_R[i] == hash_R[order_R[at - 1]] and _equal(rows, i, first_G[groups - 1]):
            group_R[i] = groups - 1
            continue
        first_G[groups] = i
        group_R[i] = groups
        groups += 1
    return groups


@Kernel
def take_rows(rows: Rows, pick_R: Array, into: Rows) -> None:
    """Copy some rows, in an order; sizes apart."""
    at = 0
    for i in range(len(pick_R)):
        for e in range(rows.ptr_R[pick_R[i]], rows.ptr_R[pick_R[i] + 1]):
            into.column_E[at], into.value_E[at] = rows.column_E[e], rows.value_E[e]
            at += 1
        into.ptr_R[i + 1] = at
