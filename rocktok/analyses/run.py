"""What every analysis begins with: the log, a table of it, its prompts, the engine."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from rocktok._types import Array
from rocktok.engine.choose import TableView
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.engine.turns import named
from rocktok.log import open_log
from rocktok.log.catalogue import Log
from rocktok.log.sequences import Prompts, load_prompts
from rocktok.stats.sums import DistinctValues

P = ParamSpec("P")
T = TypeVar("T")

#: Of each log that is open: analyses that share a pass share them, too.
_PROMPTS: WeakKeyDictionary[Log, Prompts] = WeakKeyDictionary()

#: What analyses take: an open log, or where one is.
LogOrPath = Log | str | os.PathLike[str]


@dataclass(frozen=True)
class Run:
    """One analysis of one log.

    Attributes:
        log: the log.
        engine: what makes the passes.
        view: the table that is read, and its steps.
        seed: of everything that is drawn.
        passes_before: passes that the engine had made when the analysis began.
    """

    log: Log
    engine: Engine
    view: TableView
    seed: int
    passes_before: int

    @classmethod
    def begin(cls, log: LogOrPath, engine: Engine | None, table: str, seed: int) -> Run:
        """Open the log where it is a path; `engine` None: threads on the cores at hand.

        Raises `LogError` for a log that cannot be opened, or lacks the table.
        """
        log, engine = opened(log), engine or Engine()
        return cls(log, engine, TableView.of(log, table), seed, engine.passes)

    @property
    def table(self) -> str:
        """Name of the table."""
        return self.view.table

    @property
    def passes(self) -> int:
        """Passes made since the analysis began."""
        return self.engine.passes - self.passes_before

    @cached_property
    def prompts(self) -> Prompts:
        """Which prompt each sequence is of."""
        if self.log not in _PROMPTS:
            _PROMPTS[self.log] = load_prompts(self.log)
        return _PROMPTS[self.log]

    def source(
        self,
        post: int,
        pre: int | None = None,
        *,
        half: int | None = None,
        only: Array | None = None,
    ) -> Source:
        """Rows at `post`, or of the sequences that stand at `pre` too, joined."""
        return Source(self.log, self.table, pre, post, self.prompts, half, self.seed, only)

    def why_one_half(self, source: Source) -> str:
        """`one_half`, of the prompts of some rows; a pass."""
        prompts = DistinctValues("prompt")
        self.engine.run(source, prompts)
        return one_half(len(prompts.result()), self.seed)


def one_half(prompts: int, seed: int) -> str:
    """Why nothing can be chosen on one half of the prompts and measured on the other."""
    if prompts == 1:
        return "there is one prompt, so no other half of the prompts; record more prompts"
    return (
        f"all {prompts:,} prompts fall into one half by --seed {seed}; give another --seed, or "
        "record more prompts"
    )


def opened(log: LogOrPath) -> Log:
    """The log itself, or the one at a path. Raises `LogError` as `rocktok.open` does."""
    return log if isinstance(log, Log) else open_log(path_of(log))


def path_of(log: object, several: str | None = None) -> str:
    """The path that stands for a log.

    Args:
        several: the function, if it takes any number of logs.

    Raises:
        TypeError: it is no path.
    """
    if isinstance(log, str | os.PathLike):
        return os.fspath(log)
    kind = type(log).__name__
    if several is not None and isinstance(log, list | tuple | set | frozenset | Iterator):
        raise TypeError(f"{several}() takes logs one by one, not a {kind}; give {several}(*logs)")
    raise TypeError(f"a log is a path or what rocktok.open() returns, not a {kind}")


def options_of(params: type[T], names: Mapping[str, Any]) -> T:
    """The options of an analysis, taken by name: `options_of(DetectParams, locals())`."""
    return params(**{f.name: names[f.name] for f in fields(params) if f.name in names})  # type: ignore[arg-type]


def public(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: a keyword that the function does not take is a TypeError naming the nearest."""
    parameters = list(inspect.signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        unknown = next((name for name in kwargs if name not in parameters), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, parameters, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(parameters)}"
            raise TypeError(f"{function.__name__}() has no parameter {unknown!r}{hint}")
        with named(function.__name__):
            return function(*args, **kwargs)

    return checked
