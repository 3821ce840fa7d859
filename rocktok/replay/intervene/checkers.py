"""Whether a completion answers a problem: built-in rules, or a function of one's own.

Built-in rules compare texts without the blanks around them; two numbers are compared as numbers
("1,000.0" is "1000"). They know nothing of LaTeX: an answer in another notation is wrong.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rocktok.errors import RocktokError, UsageError

if TYPE_CHECKING:
    from rocktok.replay.intervene.problems import Problem


class Checker(Protocol):
    """(completion, problem, whether it was cut at the limit of tokens) → whether it is answered."""

    def __call__(self, text: str, problem: Problem, truncated: bool = False) -> bool:
        """Raises `RocktokError` that names the problem where a function of one's own fails."""
        ...


KINDS = "exact, boxed, regex:PATTERN, or module:function"


def checker(spec: str) -> Checker:
    """The checker that a text names.

    `exact`: the completion is the answer. `boxed`: its last `\\boxed{…}` holds it.
    `regex:PATTERN`: the first group of the pattern's last match (without groups: the match) is
    the answer. `module:function`: called with the completion and the line of the problem (a
    mapping); returns a bool. A parameter `truncated`, where it has one, is whether the completion
    was cut at the limit of tokens. The module is also looked for in the current directory.

    A checker raises `RocktokError` that names the problem where a function of one's own fails.

    Raises `UsageError` for a text that names none.
    """
    if spec == "exact":
        return lambda text, problem, truncated=False: same(text, problem.answer)
    if spec == "boxed":
        return lambda text, problem, truncated=False: same(boxed(text), problem.answer)
    kind, colon, rest = spec.partition(":")
    if not colon or not rest or not kind:
        raise UsageError(f"checker is {spec!r}; give {KINDS}", parameter="checker")
    if kind == "regex":
        try:
            pattern = re.compile(rest)
        except re.error as error:
            message = f"checker has a pattern that is no regular expression ({error}); give another"
            raise UsageError(message, parameter="checker") from error
        return lambda text, problem, truncated=False: same(_last(pattern, text), problem.answer)
    function = _load(kind, rest)
    return partial(_call, function, spec, _asks_for_truncated(function))


def same(text: str | None, answer: Any) -> bool:
    """Whether a text is an answer: equal without the blanks around it, or equal as a number."""
    if text is None:
        return False
    ours, theirs = text.strip(), str(answer).strip()
    if ours == theirs:
        return True
    numbers = _number(ours), _number(theirs)
    return None not in numbers and numbers[0] == numbers[1]


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(re.sub(r"(?<=\d),(?=\d{3})", "", text))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{…}` of a text holds, braces within it balanced; None for none."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len(r"\boxed{")
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at]
    return None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = None
    for match in pattern.finditer(text):
        found = match.group(1) if pattern.groups else match.group()
    return found


def _load(module: str, name: str) -> Callable[..., Any]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    # What goes wrong in there is anything.
    try:
        function: Any = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except Exception as error:
        message = f"checker {module}:{name} cannot be imported ({_line(error)}); give {KINDS}"
        raise UsageError(message, parameter="checker") from error
    if not callable(function):
        message = f"checker {module}:{name} is not a function; give {KINDS}"
        raise UsageError(message, parameter="checker")
    return function  # type: ignore[no-any-return]


def _asks_for_truncated(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter of that name; what has no signature has none."""
    try:
        return "truncated" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _call(
    function: Callable[..., Any],
    spec: str,
    asks: bool,
    text: str,
    problem: Problem,
    truncated: bool = False,
) -> bool:
    try:
        more = {"truncated": truncated} if asks else {}
        found = function(text, problem.content, **more)
    except Exception as error:
        raise RocktokError(
            f"problem {problem.id!r}: the checker {spec} failed ({type(error).__name__}: "
            f"{_line(error)}); correct it"
        ) from error
    # NumPy's and torch's bools, too; not a score between them.
    if isinstance(found, str) or found is None or found not in (0, 1):
        raise RocktokError(
            f"problem {problem.id!r}: the checker {spec} returned {found!r}, which is no bool; "
            "return True or False"
        )
    return bool(found)


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
