"""What a log says about its run: run.json, and the start of an attempt."""

from __future__ import annotations

import datetime
import uuid
from typing import TYPE_CHECKING, Any

import rocktok.schema as schema
from rocktok._version import __version__
from rocktok.errors import HookError, LogError
from rocktok.log.checks import Rules
from rocktok.log.manifest import Attempt, dump_json, load_attempts, load_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rocktok.files import Place

PATH = "run.json"

#: Settings that must not change between attempts: losses would not be comparable.
_FIXED = ("vocab_size", "loss")


def load_run(where: Place) -> dict[str, Any] | None:
    """run.json, or None for a hand-written log without one. Raises `LogError`."""
    return load_json(where, PATH, by_hand=True) if where.exists(PATH) else None


def exactness_of(run: Mapping[str, Any] | None, name: str) -> str:
    """How the log's losses were had; a log that does not say is taken to be exact.

    Raises `LogError` for a word that the format does not know.
    """
    loss = (run or {}).get("loss") or {}
    if not isinstance(loss, dict):
        raise LogError(f"{name}: loss is {loss!r}; it must be an object, as in docs/log-format.md")
    exactness = loss.get("exactness", "exact")
    if exactness not in schema.EXACTNESS:
        raise LogError(
            f"{name}: exactness {exactness!r}; it must be one of {', '.join(schema.EXACTNESS)}"
        )
    return str(exactness)


def rules_of(run: Mapping[str, Any] | None, name: str) -> Rules:
    """What run.json promises of the values. Raises `LogError` for a size that is none."""
    size = (run or {}).get("vocab_size")
    if size is not None and (type(size) is not int or size < 1):
        raise LogError(f"{name}: vocab_size is {size!r}; it must be a positive integer")
    if size is not None and size > schema.MAX_VOCABULARY:
        raise LogError(
            f"{name}: vocab_size is {size}; the largest that is read is {schema.MAX_VOCABULARY}"
        )
    return Rules(exactness_of(run, name), size)


def new_run_id() -> str:
    """An identity that no other run has."""
    return uuid.uuid4().hex


def start_run(where: Place, run: Mapping[str, Any]) -> str:
    """Create run.json, or join the run that is there. Returns the run_id.

    Raises `HookError` if the directory holds another run, or shards without a run.json.
    """
    existing = load_run(where)
    if existing is None:
        _refuse_strangers(where)
        run_id = new_run_id()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        content = {
            **{key: value for key, value in run.items() if key != "schema_version"},
            "run_id": run_id,
            "created_at": now,
            "rocktok_version": __version__,
        }
        try:
            where.create(PATH, dump_json(content))
        except FileExistsError as error:
            raise HookError(
                f"{where.show(PATH)}: another job has just started a run here; "
                "give each run its own directory"
            ) from error
        return run_id
    for key in _FIXED:
        if key in run and key in existing and run[key] != existing[key]:
            raise HookError(
                f"{where.show(PATH)}: holds a run with {key} {existing[key]}, this one has "
                f"{run[key]}; record into another directory"
            )
    return str(existing.get("run_id", ""))


def _refuse_strangers(where: Place) -> None:
    for table in schema.TABLES:
        for path, _ in where.files(table, ".parquet"):
            raise HookError(
                f"{where.show(path)}: shards are here, but no {PATH} says of which run; "
                "record into another directory"
            )


def start_attempt(
    where: Place, *, resume_step: int, world_size: int, columns: Sequence[str]
) -> int:
    """Create attempts/<n>.json exclusively; returns n.

    Raises `HookError` if an earlier attempt recorded other columns.
    """
    while True:
        earlier = load_attempts(where)
        for other in earlier:
            if other.columns is not None and set(other.columns) != set(columns):
                raise HookError(
                    f"{where.show(other.path)}: this log records the columns "
                    f"{', '.join(other.columns) or '(none)'}, this attempt wants "
                    f"{', '.join(columns) or '(none)'}; ask for the same or record elsewhere"
                )
        number = earlier[-1].attempt + 1 if earlier else 0
        attempt = Attempt(number, resume_step, world_size, tuple(columns))
        try:
            where.create(attempt.path, attempt.encode())
        except FileExistsError:
            continue  # another start was faster: take the next number
        return number
