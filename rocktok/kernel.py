"""The compile layer: numba, its cache on disk, and what happens without one.

Importing this module imports numba (a third of a second); modules of loops are imported when a loop
is first needed.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime import rtsys

from rocktok.errors import RocktokWarning

Function = TypeVar("Function", bound=Callable[..., Any])

_LOCK = threading.RLock()
_warned = False


def _jit(function: Callable[..., Any], **options: Any) -> Any:
    # error_model: 0/0 is NaN, as in NumPy, and nothing raises inside a loop. No fast maths, but
    # where a decorator below asks for it: sums keep their order, and multiplication and addition
    # are rounded apart.
    return numba.njit(nogil=True, error_model="numpy", **options)(function)


def part(function: Function) -> Function:
    """Decorator: compiled into the kernels that call it, never by itself."""
    # A call that is not inlined counts references to every array that it passes, atomically.
    return cast(Function, _jit(function, forceinline=True))


def sums(function: Function) -> Function:
    """Decorator: a `part` whose loop adds in any order, so that one instruction adds many.

    The order depends on the processor alone. What it calls keeps its own order and rounding.
    """
    return cast(Function, _jit(function, forceinline=True, fastmath={"reassoc"}))


def fused_part(function: Function) -> Function:
    """Decorator: a `part` whose products and sums may be rounded once, by fused multiply-add.

    A quarter faster where polynomials are most of the work. The last digits depend on whether the
    processor has the instruction: not for what must be the same bytes everywhere.
    """
    return cast(Function, _jit(function, forceinline=True, fastmath={"contract"}))


def fused_sums(function: Function) -> Function:
    """Decorator: `sums` and `fused_part` in one."""
    return cast(Function, _jit(function, forceinline=True, fastmath={"contract", "reassoc"}))


class Kernel:
    """Decorator: a function that is compiled when first called, and kept on disk where possible.

    Numba looks for a place in NUMBA_CACHE_DIR, beside the source, and in the user's cache. What
    lies there and cannot be read (damaged, or left by an older version) is removed, and compiled
    anew. Where there is no place, or none that can be written, it is compiled for this
    process alone; the first time warns with `RocktokWarning`.
    """

    def __init__(self, function: Callable[..., Any], *, packed: bool = False) -> None:
        self.function = function
        self.packed = packed
        self._dispatcher: Any = None
        self._forms: set[Any] = set()

    def __call__(self, *arguments: Any) -> Any:
        """Run it, without the interpreter lock."""
        form = _form(arguments)
        if form not in self._forms:
            with _LOCK, _packing(self.packed):
                self._compile(tuple(numba.typeof(argument) for argument in arguments))
                self._forms.add(form)
        return self._dispatcher(*arguments)

    def _compile(self, signature: tuple[Any, ...]) -> None:
        # Cache files are pickles: damaged ones raise anything.
        for last in (False, True):
            try:
                if self._dispatcher is None:
                    self._dispatcher = _jit(self.function, cache=True)
                if not _loaded(self._dispatcher, signature):
                    self._dispatcher.compile(signature)
                return
            except Exception as error:
                where = self._dispatcher.stats.cache_path if self._dispatcher else None
                if not last and where is not None and self._forget(Path(where)):
                    self._dispatcher = None
                    continue
                self._dispatcher = _jit(self.function, cache=False)
                self._dispatcher.compile(signature)
                _warn(error, where)
                return

    def _forget(self, where: Path) -> bool:
        """Remove what is kept of this function; False if there is nothing, or it must stay."""
        name = f"{self.function.__module__.rpartition('.')[2]}.{self.function.__qualname__}-*.nb?"
        paths = list(where.glob(name))
        try:
            for path in paths:
                path.unlink(missing_ok=True)
        except OSError:
            return False
        return bool(paths)


def packed(function: Callable[..., Any]) -> Kernel:
    """Decorator: a `Kernel` whose like statements on neighbours become one instruction.

    Rounding stays as it is. For loops whose body is many of these: it costs time to compile.
    """
    return Kernel(function, packed=True)


@contextmanager
def _packing(wanted: bool) -> Iterator[None]:
    # Numba has no option for it, and other packages' functions are not ours to change.
    before = numba.config.SLP_VECTORIZE
    numba.config.SLP_VECTORIZE = int(wanted or before)
    try:
        yield
    finally:
        numba.config.SLP_VECTORIZE = before


def _loaded(dispatcher: Any, signature: tuple[Any, ...]) -> bool:
    """Whether compiled code was on disk, and is the dispatcher's now.

    As its `compile` begins, but for a third of a second in which numba registers, with SciPy's
    linear algebra, all that it could compile: what is compiled already calls none of it.
    """
    context = dispatcher.targetctx
    with global_compiler_lock:
        if signature in dispatcher.overloads:  # of arrays that differ in what numba does not see
            return True
        rtsys.initialize(context)
        code = None
        try:
            with dispatcher._cache._guard_against_spurious_io_errors():
                code = dispatcher._cache._load_overload(signature, context)
        except (AttributeError, TypeError):  # of another numba
            return False
        if code is None:
            return False
        dispatcher._cache_hits[signature] += 1
        context.insert_user_function(code.entry_point, code.fndesc, [code.library])
        dispatcher.add_overload(code)
    return True


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
        f"compiled code is not cached on disk, so every process compiles for some seconds: {place} "
        f"({reason}); {remedy} NUMBA_CACHE_DIR to a directory that can be written",
        RocktokWarning,
        stacklevel=4,
    )
