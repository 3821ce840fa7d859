"""What a log says about its run: run.json, and the start of an attempt."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rocktok.schema as schema
from rocktok._version import __version__
from rocktok.errors import HookError, LogError
from rocktok.log.checks import Rules
from rocktok.log.manifest import (
    Attempt,
    dump_json,
    load_attempts,
    load_json,
    load_manifests,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

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


@dataclass(frozen=True)
class RunFacts:
    """What run.json says of the run's tokens and limits; each None where it does not.

    Attributes:
        terminal_student, terminal_teacher: ids that end a text or a turn, ascending.
        special: ids of the special tokens, ascending.
        max_completion_length: tokens at which a completion is cut.
        tokenizers: in what the teacher's tokenizer differs from the student's.
        context_seed: seed of the projection behind contexts/.
        context_hidden_size: width of the hidden states that were projected.
        weights: weights of target tokens in the loss of the first attempt.
    """

    terminal_student: tuple[int, ...] | None = None
    terminal_teacher: tuple[int, ...] | None = None
    special: tuple[int, ...] | None = None
    max_completion_length: int | None = None
    tokenizers: Mapping[str, Any] | None = None
    context_seed: int | None = None
    context_hidden_size: int | None = None
    weights: Mapping[str, Any] | None = None

    @property
    def terminal(self) -> tuple[int, ...] | None:
        """Terminal ids of either model, as `student_end` and `teacher_end` sum over them."""
        known = [ids for ids in (self.terminal_student, self.terminal_teacher) if ids is not None]
        return tuple(sorted({id_ for ids in known for id_ in ids})) if known else None


def run_facts(run: Mapping[str, Any] | None, name: str) -> RunFacts:
    """The facts in run.json, or in what becomes one; None, as of a hand-written log, has none.

    Args:
        run: its content.
        name: the file's name, for messages.

    Raises `LogError` for a key that is not of its type.
    """
    facts = _Keys(run or {}, name)
    terminal, contexts = facts.inner("terminal_ids"), facts.inner("contexts")
    bits = contexts.number("bits", 1)
    if bits not in (None, 8 * schema.CONTEXT_BYTES):
        raise LogError(
            f"{name}: contexts.bits is {bits}; this rocktok reads {8 * schema.CONTEXT_BYTES}"
        )
    return RunFacts(
        terminal.ids("student"),
        terminal.ids("teacher"),
        facts.ids("special_ids"),
        facts.number("max_completion_length", 1),
        facts.inner("tokenizers").content or None,
        contexts.number("seed", 0),
        contexts.number("hidden_size", 1),
        facts.inner("weights").content or None,
    )


@dataclass(frozen=True)
class _Keys:
    """Keys of an object in run.json, each None where absent or null."""

    content: Mapping[str, Any]
    name: str
    above: str = ""

    def inner(self, key: str) -> _Keys:
        value = self.content.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return _Keys(value or {}, self.name, f"{key}.")

    def ids(self, key: str) -> tuple[int, ...] | None:
        value = self.content.get(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or not all(map(_is_token_id, value)):
            raise self._wrong(key, value, "a list of token ids")
        return tuple(sorted(set(value)))

    def number(self, key: str, least: int) -> int | None:
        value = self.content.get(key)
        if value is not None and (type(value) is not int or value < least):
            raise self._wrong(key, value, f"an integer, {least} or more")
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> LogError:
        return LogError(f"{self.name}: {self.above}{key} is {value!r}; it must be {wanted}")


def _is_token_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < schema.MAX_VOCABULARY


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


def fingerprint_of(run: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay the same in all attempts: settings of loss, vocabulary and models, by name."""
    loss = run.get("loss") or {}
    found = {f"loss.{name}": value for name, value in loss.items()}
    if run.get("vocab_size") is not None:
        found["vocab_size"] = run["vocab_size"]
    return {**found, **models}


def start_attempt(
    where: Place,
    *,
    resume_step: int,
    world_size: int,
    columns: Sequence[str],
    fingerprint: Mapping[str, Any] | None = None,
    supersede: bool = False,
) -> int:
    """Create attempts/<n>.json exclusively; returns n.

    Raises `HookError` if an earlier attempt recorded other columns or has another fingerprint, and
    for a start at step 0 over a finished run, unless it is to `supersede` that.
    """
    while True:
        earlier = load_attempts(where)
        for other in earlier:
            _refuse_others(where, other, columns, fingerprint or {})
        if resume_step == 0 and not supersede:
            _refuse_finished(where, earlier)
        number = earlier[-1].attempt + 1 if earlier else 0
        attempt = Attempt(number, resume_step, world_size, tuple(columns), dict(fingerprint or {}))
        try:
            where.create(attempt.path, attempt.encode())
        except FileExistsError:
            continue  # another start was faster: take the next number
        return number


def _refuse_others(
    where: Place, other: Attempt, columns: Sequence[str], fingerprint: Mapping[str, Any]
) -> None:
    if other.columns is not None and set(other.columns) != set(columns):
        lacks = [name for name in other.columns if name not in columns]
        more = [name for name in columns if name not in other.columns]
        apart = [f"lacks {', '.join(lacks)}"] if lacks else []
        apart += [f"has {', '.join(more)} beside them"] if more else []
        raise HookError(
            f"{where.show(other.path)}: this log records the columns "
            f"{', '.join(other.columns) or '(none)'}, this attempt wants "
            f"{', '.join(columns) or '(none)'} (it {' and '.join(apart)}); record the same "
            "columns, or into another directory"
        )
    # As the file holds it: tuples are lists there.
    mine = json.loads(dump_json(dict(fingerprint)))
    for name, value in (other.fingerprint or {}).items():
        # A name that one of them lacks comes from another version of rocktok.
        if name in mine and mine[name] != value:
            raise HookError(
                f"{where.show(other.path)}: holds a run with {name} {value}, this one has "
                f"{mine[name]}; record into another directory"
            )


def _refuse_finished(where: Place, earlier: Sequence[Attempt]) -> None:
    """Raise `HookError` if an attempt whose rows are still read has ended as it should."""
    manifests = load_manifests(where) if earlier else []
    for attempt in earlier:
        later = [other.resume_step for other in earlier if other.attempt > attempt.attempt]
        if min(later, default=attempt.resume_step + 1) <= attempt.resume_step:
            continue
        mine = [m for m in manifests if m.attempt == attempt.attempt and m.final]
        steps = {
            table: max((step for m in mine for step in m.steps.get(table, ())), default=-1)
            for table in schema.OCCURRENCE_TABLES
        }
        if len(mine) < attempt.world_size or max(steps.values()) < 0:
            continue
        # Rollouts of step n are scored before the optimizer step n + 1; fixed text after step n.
        least = steps["rollout"] >= steps["fixed"]
        done = steps["rollout"] + 1 if least else steps["fixed"]
        raise HookError(
            f"{where.name}: holds a finished run of {'at least ' if least else ''}{done} "
            f"step{'' if done == 1 else 's'}; give another directory, or Recorder(…, "
            f"supersede=True), after which its rows are read only with --attempt {attempt.attempt}"
        )
