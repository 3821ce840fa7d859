"""Keys of `--fail-if` against the types of a result: what is wrong is told before any work."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints
from typing import is_typeddict as is_mapping

import click

from rocktok.cli.limits import COUNT, Limit, Part, listed
from rocktok.errors import UsageError

_SINGLE = (str, int, float, bool)


def refuse_unknown_keys(limits: Sequence[Limit | str]) -> None:
    """Raise `UsageError` for a key that no result of the command that runs can have.

    Keys of which the types say nothing are left to `Limit.check`.
    """
    comparisons = [limit for limit in limits if isinstance(limit, Limit)]
    keys = _keys_of_command() if comparisons else None
    for limit in comparisons:
        if keys is not None:
            _Keys(limit).check(keys, limit.path, "")


def _keys_of_command() -> Mapping[str, Any] | None:
    """Key of a result of the command → type of its value; None for a command without one."""
    from rocktok.analyses import analyses

    entry = analyses().get(click.get_current_context().command.name or "")
    if entry is None:
        return None
    function = entry.load()
    name = function.__annotations__["return"]
    result = getattr(import_module(f"{function.__module__.rpartition('.')[0]}.result"), name)
    keys: Mapping[str, Any] = result.limit_types()
    return keys


class _Keys:
    """What the types say of the path of one limit."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit

    def check(self, type_: Any, path: Sequence[Part], name: str) -> None:
        """Raise `UsageError` if the path cannot go on from a value of this type."""
        wrong = None
        for one in _members(type_):
            try:
                return self._check_one(one, path, name)
            except UsageError as error:
                wrong = wrong or error
        if wrong is not None:
            raise wrong
        return None

    def _check_one(self, type_: Any, path: Sequence[Part], name: str) -> None:
        if not path:
            return
        part, *rest = path
        row = _row_of(type_)
        if row is not None:
            if part.key != COUNT or part.chooses or rest:
                self.check(row, path, f"rows of {name}")
            return
        if type_ in _SINGLE:
            raise self._error(f"{name} has no {part.key!r}; it is a value by itself")
        keys = _keys_of(type_)
        if keys is None:
            return
        self._must_have(keys, part.key, name)
        below = f"{name.removeprefix('rows of ')}.{part.key}" if name else part.key
        if part.chooses:
            for one in filter(None, map(_row_of, _members(keys[part.key]))):
                for key, _ in part.conditions:
                    row_keys = _keys_of(one)
                    if row_keys is not None:
                        self._must_have(row_keys, key, f"rows of {below}")
                self.check(one, rest, f"rows of {below}")
        else:
            self.check(keys[part.key], rest, below)

    def _must_have(self, keys: Mapping[str, Any], key: str, name: str) -> None:
        if key in keys:
            return
        there = f"{name} has no {key!r}; it has" if name else f"there is no {key!r}; choose from"
        if name.startswith("rows of "):
            there = f"{name} have no {key!r}; they have"
        raise self._error(f"{there} {listed(list(keys), key)}")

    def _error(self, message: str) -> UsageError:
        return UsageError(f"--fail-if {self.limit.text!r}: {message}")


def _members(type_: Any) -> list[Any]:
    """The types that a value may be of, None left out."""
    if get_origin(type_) in (NotRequired, Required):
        return _members(get_args(type_)[0])
    if get_origin(type_) in (Union, types.UnionType):
        return [one for member in get_args(type_) for one in _members(member)]
    return [] if type_ in (None, type(None)) else [type_]


def _row_of(type_: Any) -> Any:
    """Type of the rows of a list; None: it is no list of like rows."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in (list, Sequence) and len(arguments) == 1:
        return arguments[0]
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    return None


def _keys_of(type_: Any) -> Mapping[str, Any] | None:
    """Key → type of its value; None where the type does not say."""
    if isinstance(type_, dict):
        return type_
    if not is_mapping(type_) and not (isinstance(type_, type) and is_dataclass(type_)):
        return None
    hints = get_type_hints(type_)
    # In the order of the output, which is not that of the bases.
    return {name: hints[name] for name in type_.__annotations__}
