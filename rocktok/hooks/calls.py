"""Whether a trainer's functions are as a hook knows them."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def imported(name: str, package: str) -> Any:
    """A module of a trainer. Raises `HookError` if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise HookError(f"{name} cannot be imported ({error}); install {package}") from error


def version_of(package: str) -> str:
    """A distribution's name and version, such as "verl 0.9.1"."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (of unknown version)"


def check_call(
    owner: Any,
    name: str,
    parameters: Sequence[str],
    version: str,
    supported: str,
    optional: Collection[str] = (),
    *,
    where: str = "",
) -> Any:
    """An attribute of a module or class that is to be called with certain parameters.

    Args:
        owner: the module or class.
        name: of its attribute.
        parameters: names that it must take, in this order, and no others.
        version: of the trainer, for the message.
        supported: the version that is known.
        optional: those of `parameters` that it may lack.
        where: what is to be done, for the message.

    Raises:
        HookError: it is missing, or takes other parameters: what it computes may have changed.
    """
    prefix, of = f"{where}: " if where else "", f"{owner.__name__}.{name}"
    function = getattr(owner, name, None)
    if function is None:
        raise HookError(f"{prefix}{version} has no {of}; use {supported} or a newer rocktok")
    found = list(inspect.signature(function).parameters)
    missing = [p for p in parameters if p not in found and p not in optional]
    unknown = [p for p in found if p not in parameters]
    known = [p for p in parameters if p in found]
    if missing or unknown or known != found:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has the unknown {', '.join(unknown)}"] if unknown else []
        parts = parts or ["has its parameters in another order"]
        raise HookError(
            f"{prefix}{of} of {version} {' and '.join(parts)}; use {supported} or a newer rocktok"
        )
    return function
