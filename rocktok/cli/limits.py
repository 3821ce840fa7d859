"""`--fail-if`: limits on the values of a result, for scripts; exit code 3 if one is exceeded."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

import click

from rocktok.errors import LimitError, LogError, UsageError

F = TypeVar("F", bound=Callable[..., Any])

#: What every analysis says of its limits.
WORDS = (
    "Exit with code 3 if a comparison with a number of the JSON output is true, such as "
    "'{example}'; may be given several times."
)

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip

# PATH OPERATOR NUMBER; a path is KEY[CHOICE].KEY…, where the choice of a list's rows may have
# anything in quotes.
_CHOICE = r"\[(?:\"[^\"]*\"|[^\"\]])*\]"
_PART = rf"[A-Za-z_][\w-]*\s*(?:{_CHOICE})?"
_COMPARISON = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*")
_ONE_PART = re.compile(rf"\s*([A-Za-z_][\w-]*)\s*({_CHOICE})?\s*(?:\.|$)")
_ONE_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(?:\"([^\"]*)\"|([^\",]*))\s*(?:,|$)")

#: The key of a list that says how many rows it has.
COUNT = "count"

#: Names and values of keys in a message, at most.
_MOST = 30


@dataclass(frozen=True)
class Part:
    """One key of a path, and which rows of the list that it leads to.

    `place`: of one row, from 0, negative from the end; `conditions`: key and value that a row must
    have. Neither: every row.
    """

    key: str
    place: int | None = None
    conditions: tuple[tuple[str, str], ...] = ()

    @property
    def chooses(self) -> bool:
        """Whether it is for a list."""
        return self.place is not None or bool(self.conditions)


@dataclass(frozen=True)
class Limit:
    """A comparison `PATH OPERATOR NUMBER` that must be false."""

    text: str
    path: tuple[Part, ...]
    sign: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Limit | None:
        """The limit, or None if the text is no comparison. Raises `UsageError` without a number."""
        match = _COMPARISON.fullmatch(text)
        if match is None:
            return None
        path, sign, number = match.groups()
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if value != value:
            raise UsageError(
                f"--fail-if {text!r}: {number!r} is not a number; write NAME.KEY > NUMBER"
            )
        parts = tuple(
            _part(text, key, choice) for key, choice in (m.groups() for m in _parts(path))
        )
        return cls(text.strip(), parts, sign, value)

    def check(self, said: Mapping[str, object]) -> None:
        """Compare the values that the path leads to in a result as JSON with the number.

        Raises `LimitError` if one of them makes the comparison true, `LogError` if all are unknown
        or no row is what the path asks for, `UsageError` if a key of it does not exist.
        """
        values = list(self._values(said, self.path, ""))
        known = [(name, value) for name, value in values if value is not None]
        if values and not known:
            raise LogError(f"{self._where}: {values[0][0]} is unknown for this log; the output "
                           "names what the log lacks")  # fmt: skip
        for name, value in known:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"{self._where}: {name} is not a number{_keys_of(value)}")
        for name, value in known:
            assert isinstance(value, int | float)
            if _OPERATORS[self.sign](value, self.number):
                raise LimitError(f"{self._where}: {name} is {_shown(value)}")

    @property
    def _where(self) -> str:
        return f"--fail-if {self.text!r}"

    def _values(self, at: object, path: Sequence[Part], name: str) -> Iterator[tuple[str, object]]:
        """(name, value) at the end of the path; of a list every row, None beyond what is None."""
        if not path and _is_plain_list(at):
            yield from ((f"{name}[{place}]", row) for place, row in enumerate(at))
            return
        if not path or at is None:
            yield name, at
            return
        part, *rest = path
        if isinstance(at, Sequence) and not isinstance(at, str):
            if part.key == COUNT and not part.chooses and not rest:
                yield f"{name}.{COUNT}", len(at)
                return
            for place, row in enumerate(at):
                yield from self._values(row, path, f"{name}[{place}]")
            return
        if not isinstance(at, Mapping):
            raise UsageError(f"{self._where}: {name} has no {part.key!r}; it is a value by itself")
        self._must_have(at, part.key, name)
        below = f"{name}.{part.key}" if name else part.key
        if not part.chooses:
            yield from self._values(at[part.key], rest, below)
            return
        for place, row in self._chosen(at[part.key], part, below):
            yield from self._values(row, rest, f"{below}[{place}]")

    def _chosen(self, rows: object, part: Part, name: str) -> list[tuple[int, object]]:
        """Places and rows of a list that a part chooses. Raises where there are none."""
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            raise UsageError(f"{self._where}: {name} is not a list; leave out the brackets")
        if not rows:
            raise LogError(f"{self._where}: {name} is empty for this log")
        if part.place is not None:
            if not -len(rows) <= part.place < len(rows):
                raise UsageError(f"{self._where}: {name} has {len(rows)} rows, counted from 0; "
                                 f"there is no {part.place}")  # fmt: skip
            place = part.place % len(rows)
            return [(place, rows[place])]
        chosen = list(enumerate(rows))
        for key, value in part.conditions:
            held = []
            for place, row in chosen:
                if not isinstance(row, Mapping):
                    raise UsageError(f"{self._where}: rows of {name} have no keys; choose one by "
                                     f"its place, such as {name}[0]")  # fmt: skip
                self._must_have(row, key, f"{name}[{place}]")
                held.append((place, row, row[key]))
            chosen = [(place, row) for place, row, had in held if _same(had, value)]
            if not chosen:
                had = list(dict.fromkeys(str(one) for *_, one in held))
                raise LogError(f"{self._where}: no row of {name} has {key}={value}; they have "
                               f"{listed(had, value)}")  # fmt: skip
        return chosen

    def _must_have(self, keys: Mapping[str, object], key: str, name: str) -> None:
        if key in keys:
            return
        there = f"{name} has no {key!r}; it has" if name else f"there is no {key!r}; choose from"
        raise UsageError(f"{self._where}: {there} {listed(list(keys), key)}")


def _parts(path: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(path) and (match := _ONE_PART.match(path, at)) is not None:
        yield match
        at = match.end()


def _part(text: str, key: str, choice: str | None) -> Part:
    """A key with what its brackets hold: a place, or KEY=VALUE with commas between."""
    if choice is None:
        return Part(key)
    inside = choice[1:-1].strip()
    if re.fullmatch(r"[+-]?\d+", inside):
        return Part(key, place=int(inside))
    conditions, at = [], 0
    while at < len(inside):
        match = _ONE_CONDITION.match(inside, at)
        if match is None:
            break
        quoted, plain = match.group(2), (match.group(3) or "").strip()
        conditions.append((match.group(1), plain if quoted is None else quoted))
        at = match.end()
    if at < len(inside) or not conditions:
        raise UsageError(
            f"--fail-if {text!r}: {choice} chooses no rows; write [NUMBER] or [KEY=VALUE]"
        )
    return Part(key, conditions=tuple(conditions))


def _same(value: object, text: str) -> bool:
    """Whether a value of a row is what the text says."""
    if isinstance(value, bool) or value is None:
        return text == {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text == value


def _shown(value: float) -> str:
    """As short as tells it from what it is compared with."""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def listed(names: Sequence[str], wrong: str) -> str:
    """Names that there are; the nearest is told."""
    near = [] if wrong.isdigit() else difflib.get_close_matches(wrong, names, n=1)
    shown = ", ".join(names[:_MOST])
    more = f", and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{shown}{more}{f'; did you mean {near[0]!r}?' if near else ''}"


def _is_plain_list(value: object) -> TypeGuard[Sequence[object]]:
    """Whether it is a list of values without keys."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and not any(isinstance(one, Mapping) for one in value)
    )


def _keys_of(value: object) -> str:
    """Where a path could go on."""
    if isinstance(value, Mapping):
        return f"; it has {listed(list(value), '')}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        keys = list(value[0]) if value and isinstance(value[0], Mapping) else []
        rows = f", and its rows have {listed(keys, '')}" if keys else ""
        return f"; it is a list: it has {COUNT}{rows}"
    return ""


def fail_if_option(words: str, name: str = "limits") -> Callable[[F], F]:
    """--fail-if, which may be given several times.

    As `limits` a `Job` checks them; under another name the command does.
    """
    return click.option("--fail-if", name, multiple=True, metavar="LIMIT", help=words)


def limits_option(example: str) -> Callable[[F], F]:
    """--fail-if of an analysis whose JSON output has what `example` compares."""
    return fail_if_option(WORDS.format(example=example))


def parse_limits(texts: Sequence[str], *, or_one_of: Sequence[str] = ()) -> list[Limit | str]:
    """Limits in the given order; words of `or_one_of` are kept.

    Raises `UsageError` for any other text, before a log is read.
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


def check_limits(limits: Sequence[Limit | str], said: Callable[[], Mapping[str, object]]) -> None:
    """Check those that are comparisons; what they compare is asked for only if there are any."""
    if limits:
        values = said()
        for limit in limits:
            if isinstance(limit, Limit):
                limit.check(values)
