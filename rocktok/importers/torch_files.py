"""`.pt` files, read without running what they hold."""

from __future__ import annotations

import errno
import gc
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocktok.errors import DamagedError, LogError, RocktokError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GLOBAL = re.compile(r"(?:GLOBAL|class:?) ([\w.]+)")

#: Opcodes of a file's head in which the list is looked for.
_HEAD = 4_096


def load_pt(path: Path) -> Any:
    """The content of a file that torch.save wrote: numbers, texts, containers and tensors alone.

    Raises `LogError` for one that holds anything else, `DamagedError` for one that is cut.
    """
    return _load(path, path)


def load_with_list(path: Path, key: str) -> tuple[dict[str, Any], list[Any]]:
    """As `load_pt`, of a dict whose last value, at `key`, is a long list of plain values.

    PyTorch's safe reader is written in Python, and takes some 40 s for a million dicts of ten
    numbers. The list is read apart, by an unpickler that can name no class or function at all.
    Any other layout is left to `load_pt`.

    Returns:
        The dict without the key, and the list. (An empty one where the dict has no such list.)
    """
    try:
        head, items = _split(path, key)
        rest = load_pt(path) if items is None else _load(path, head)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise DamagedError(f"{path}: {_CUT}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not isinstance(rest, dict):
        return {}, []
    found = rest.pop(key, []) if items is None else items
    rest.pop(key, None)
    return rest, found if isinstance(found, list) else []


_CUT = "truncated, or not written by torch.save; remove it, or copy it again"


def _load(path: Path, file: Path | io.BytesIO) -> Any:
    try:
        import torch
    except ImportError as error:
        raise RocktokError(f"{path}: .pt files need torch; install rocktok[torch]") from error
    try:
        with _without_collector(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DamagedError(f"{path}: {_CUT}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> LogError:
    """A cut archive is an invalid argument to PyTorch."""
    if error.errno in (None, errno.EINVAL):
        return DamagedError(f"{path}: {_CUT}")
    return LogError(f"{path}: cannot be read ({error.strerror or error})")


def _refused(path: Path, error: Exception) -> LogError:
    named = _GLOBAL.search(str(error))
    what = f"holds {named[1]}, which" if named else "holds more than numbers, texts and tensors; it"
    return LogError(
        f"{path}: {what} could run code, and is not read; save plain numbers, texts, lists and "
        "tensors"
    )


@contextmanager
def _without_collector() -> Iterator[None]:
    """A million new dicts, none of them garbage: the collector would walk them over and over."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


class _Plain(pickle.Unpickler):
    """Numbers, texts and containers: whatever names a class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a tensor")


def _split(path: Path, key: str) -> tuple[io.BytesIO, list[Any] | None]:
    """The file with an empty list in place of the long one, and that; None where it has none."""
    nothing = io.BytesIO(), None
    if not zipfile.is_zipfile(path):
        return nothing
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            return nothing
        data = archive.read(names[0])
        start = _list_start(data, key)
        # The list is the last value: what follows it sets the items of the dict, and stops.
        if start is None or data[-2:] != b"u.":
            return nothing
        items = _plain_values(data[start:-2])
        if items is None:
            return nothing
        head = io.BytesIO()
        with zipfile.ZipFile(head, "w", zipfile.ZIP_STORED) as made:
            for info in archive.infolist():
                content = data[:start] + b"]u." if info.filename == names[0] else None
                made.writestr(info.filename, archive.read(info) if content is None else content)
    head.seek(0)
    return head, items


def _list_start(data: bytes, key: str) -> int | None:
    """Where the list at a key begins; None if it is not found near the start."""
    found = False
    try:
        for number, (opcode, value, place) in enumerate(pickletools.genops(data)):
            if found and opcode.name == "EMPTY_LIST":
                return place
            if number > _HEAD or (found and "PUT" not in opcode.name):
                return None
            found = found or (opcode.name == "BINUNICODE" and value == key)
    except ValueError:
        return None
    return None


def _plain_values(stream: bytes) -> list[Any] | None:
    """The one list that a part of a pickle makes; None if it makes anything else."""
    try:
        with _without_collector():
            values = _Plain(io.BytesIO(b"\x80\x02(" + stream + b"l.")).load()
    except Exception:  # damaged, or more than plain values: PyTorch's reader will say which
        return None
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
        plain: list[Any] = values[0]
        return plain
    return None
