"""Stand-ins for what a trainer imports and this environment lacks, so that its own modules can be
run: each is named in what is printed. Nothing that the hooks touch may be one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

#: Top-level packages that a stand-in was made for.
missing: list[str] = []


class _StandIn(ModuleType):
    """Has every attribute; what is used as a decorator gives back what it decorates."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name[:1].isupper():
            # A class: others may be derived from it.
            made: Any = type(name, (), {"__init__": lambda self, *a, **k: None})
        else:
            made = MagicMock(side_effect=lambda *a, **k: a[0] if a else MagicMock())
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Asked last: what no other finder has found is missing."""

    def __init__(self, replaceable: set[str]) -> None:
        self._replaceable = replaceable

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        # A part that an installed package looks for in vain, and can do without, is not missing.
        installed = top in sys.modules and not isinstance(sys.modules[top], _StandIn)
        if top not in self._replaceable or installed:
            return None
        if top not in missing:
            missing.append(top)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        return _StandIn(spec.name)

    def exec_module(self, module: Any) -> None:
        return None


def allow(*names: str) -> None:
    """Let these packages be stand-ins where they are not installed; all others must be there."""
    sys.meta_path.append(_Finder(set(names)))


def named() -> str:
    """What to print of them."""
    return f"; stand-ins for {', '.join(sorted(missing))}" if missing else ""
