"""The calls of TRL that are watched: wrapped while training runs, and put back after it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: The wrapping in force: the loss function is a global of TRL's module.
_active: Wrapping | None = None


class Wrapping:
    """Wrappers for attributes of some objects.

    Args:
        parts: (owner, name of its attribute, what makes the wrapper of the original).
    """

    def __init__(self, *parts: tuple[Any, str, Callable[[Any], Any]]) -> None:
        self._parts = parts
        self._undo = ExitStack()

    def wrap(self) -> None:
        """Put the wrappers on, in the place of those of a training that broke off."""
        global _active
        if _active is not None:
            _active.unwrap()
        for owner, name, wrapper in self._parts:
            self._set(owner, name, wrapper)
        _active = self

    def unwrap(self) -> None:
        """Put back what was there before."""
        global _active
        self._undo.close()
        if _active is self:
            _active = None

    def _set(self, owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
        own = vars(owner).get(name)
        wrapped = wrapper(getattr(owner, name))
        setattr(owner, name, wrapped)

        def restore() -> None:
            if vars(owner).get(name) is not wrapped:
                # Somebody wrapped it again and did not put it back; taking theirs away would be
                # worse than leaving ours inside: outside of training it passes calls through.
                return
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

        self._undo.callback(restore)
