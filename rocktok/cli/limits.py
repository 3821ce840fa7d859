"""`--fail-if`: limits on what a result says, for scripts: exit code 3 where one does not hold."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from rocktok.errors import LimitError, LogError, UsageError

F = TypeVar("F", bound=Callable[..., Any])

_COMPARISON = re.compile(r"\s*([A-Za-z_]\w*)\.([A-Za-z_]\w*)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """`NAME.KEY OPERATOR NUMBER`, which must not be so."""

    text: str
    name: str
    key: str
    sign: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Limit | None:
        """None for what is no comparison. Raises `UsageError` for one without a number."""
        match = _COMPARISON.fullmatch(text)
        if match is None:
            return None
        name, key, sign, number = match.groups()
        try:
            return cls(text.strip(), name, key, sign, float(number))
        except ValueError:
            raise UsageError(
                f"--fail-if {text!r}: {number!r} is no number; write NAME.KEY > NUMBER"
            ) from None

    def check(self, said: Mapping[str, Mapping[str, object]]) -> None:
        """Hold it against what a result says: name → key → value.

        Raises `LimitError` where it is so, `LogError` where the value is not known, `UsageError`
        for a name or a key that there is not.
        """
        if self.name not in said:
            raise UsageError(f"--fail-if {self.text!r}: there is no {self.name!r}; choose from "
                             f"{', '.join(said)}")  # fmt: skip
        keys = said[self.name]
        if self.key not in keys:
            raise UsageError(f"--fail-if {self.text!r}: {self.name} has no {self.key!r}; it has "
                             f"{', '.join(keys)}")  # fmt: skip
        value = keys[self.key]
        if value is None:
            raise LogError(f"--fail-if {self.text!r}: {self.name}.{self.key} is not known of this "
                           "log; the output says what it lacks")  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"--fail-if {self.text!r}: {self.name}.{self.key} is no number")
        if _OPERATORS[self.sign](value, self.number):
            raise LimitError(f"--fail-if {self.text!r}: {self.name}.{self.key} is {value:g}")


def fail_if_option(words: str) -> Callable[[F], F]:
    """--fail-if, which may be given several times, as `fail_if`."""
    return click.option("--fail-if", "fail_if", multiple=True, metavar="LIMIT", help=words)


def parse_limits(texts: Sequence[str], *, or_one_of: Sequence[str] = ()) -> list[Limit | str]:
    """Limits as they were given; words of `or_one_of` are kept as they are.

    Raises `UsageError` for what is neither, before anything is read.
    """
    limits: list[Limit | str] = []
    for text in texts:
        if text.strip() in or_one_of:
            limits.append(text.strip())
            continue
        limit = Limit.parse(text)
        if limit is None:
            words = f"{', '.join(or_one_of)}, or " if or_one_of else ""
            raise UsageError(f"--fail-if {text!r}: must be {words}NAME.KEY > NUMBER")
        limits.append(limit)
    return limits
