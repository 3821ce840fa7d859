"""Which table and which steps of a log an analysis rests on."""

from __future__ import annotations

from dataclasses import dataclass

from rocktok.analyses.detect.ranking import DetectParams
from rocktok.errors import LogError, UsageError
from rocktok.log.catalogue import Log

REMEDY = "record with fixed_sequences, or score saved checkpoints with `rocktok rescore`"


@dataclass(frozen=True)
class Choice:
    """Table, steps (`pre` None without context), why there is no context, and notes."""

    table: str
    pre: int | None
    post: int
    no_context: str | None
    notes: list[str]


def choose_steps(log: Log, params: DetectParams) -> Choice:
    """Decide on table and steps.

    Raises `LogError` for a table or step that the log lacks, or when context is required and
    there is no fixed text at two steps; `UsageError` for steps in the wrong order.
    """
    table = _table(log, params.table)
    steps = [s.step for s in log.steps(table)]
    complete = log.complete_steps(table)
    notes = _notes(log, table)
    incomplete = set(steps) - set(complete)
    for name in ("pre", "post"):
        if getattr(params, name) in incomplete:
            notes.append(f"--{name} {getattr(params, name)} is incomplete: ranks are missing in it")
    if not complete and params.post is None:
        raise LogError(
            f"{log.name}: no step of {table}/ is complete on every rank; give --post (and --pre) "
            f"to use one as it is: {_list(steps)}"
        )
    post = _step(log, table, steps, params.post, complete[-1] if complete else None, "post")
    reason = _no_context(log, table, steps, complete, post, params)
    if reason is not None and params.context == "required":
        raise LogError(f"{log.name}: context is required, but {reason}; {REMEDY}")
    pre = None
    if reason is None:
        pre = _step(log, table, steps, params.pre, complete[0] if complete else None, "pre")
        if pre >= post:
            message = f"pre is step {pre}, post is step {post}; it must be the earlier one"
            raise UsageError(message, parameter="pre")
    elif params.context == "auto":
        notes.append(f"no persistence and no context consistency: {reason}; {REMEDY}")
    return Choice(table, pre, post, reason, notes)


def choose_table(log: Log, asked: str, step: int | None) -> tuple[str, list[int], int, list[str]]:
    """(table, its complete steps and the reference step, the reference step, notes).

    Raises `LogError` for a table or step that the log lacks.
    """
    table = _table(log, asked)
    steps, complete = [s.step for s in log.steps(table)], log.complete_steps(table)
    notes = _notes(log, table)
    if step is None and not complete:
        raise LogError(
            f"{log.name}: no step of {table}/ is complete on every rank; give --step to use one as "
            f"it is: {_list(steps)}"
        )
    chosen = _step(log, table, steps, step, complete[-1] if complete else None, "step")
    if chosen not in complete:
        notes.append(f"--step {chosen} is incomplete: ranks are missing in it")
    return table, sorted({*complete, chosen}), chosen, notes


def choose_course(
    log: Log, asked: str, first: int | None, last: int | None
) -> tuple[str, list[int], list[str]]:
    """(table, its complete steps from `first` to `last`, notes).

    Raises `LogError` for a table or step that the log lacks, or fewer than two steps;
    `UsageError` for steps in the wrong order.
    """
    table = _table(log, asked)
    steps, complete = [s.step for s in log.steps(table)], log.complete_steps(table)
    if not complete and (first is None or last is None):
        raise LogError(
            f"{log.name}: no step of {table}/ is complete on every rank; give --first and --last "
            f"to use two as they are: {_list(steps)}"
        )
    notes = _notes(log, table)
    low = _step(log, table, steps, first, complete[0] if complete else None, "first")
    high = _step(log, table, steps, last, complete[-1] if complete else None, "last")
    if len(steps) < 2 or (first is None and last is None and low == high):
        raise LogError(
            f"{log.name}: {table}/ has one complete step, {high}; learning needs two or more: "
            f"{REMEDY}"
        )
    if low >= high:
        # The message begins with the one that was asked for.
        early = f"first is step {low}" + (" (the first complete one)" if first is None else "")
        late = f"last is step {high}" + (" (the last complete one)" if last is None else "")
        if last is None:
            raise UsageError(f"{early}, {late}; it must be the earlier one", parameter="first")
        raise UsageError(f"{late}, {early}; it must be the later one", parameter="last")
    chosen = sorted({*(step for step in complete if low <= step <= high), low, high})
    for step in sorted({low, high} - set(complete)):
        notes.append(f"step {step} is incomplete: ranks are missing in it")
    return table, chosen, notes


def check_comparable(log: Log, other: Log) -> None:
    """Raise `LogError` where two logs' token ids or losses do not mean the same."""
    if other.name == log.name:
        raise LogError(f"{other.name}: is the same log twice; give a second run's")
    sizes = [(part.run or {}).get("vocab_size") for part in (log, other)]
    one, two = log.vocab.identity, other.vocab.identity
    if one != two or (one is None and sizes[0] != sizes[1]):
        raise LogError(
            f"{other.name}: its vocabulary is not that of {log.name}, so token ids do not mean the "
            "same; give a log of a run with the same tokenizer"
        )
    if log.rules.exactness != other.rules.exactness:
        raise LogError(
            f"{other.name}: its losses are {other.rules.exactness!r}, those of {log.name} "
            f"{log.rules.exactness!r}; give logs that measure them alike"
        )


def _table(log: Log, asked: str) -> str:
    table = asked
    if table == "auto":
        table = "fixed" if log.shards("fixed") else "rollout"
    if not log.shards(table):
        raise LogError(f"{log.name}: has no {table}/ table; it has {', '.join(log.tables())}")
    return table


def _notes(log: Log, table: str) -> list[str]:
    notes = list(log.warnings())
    incomplete = log.incomplete_steps(table)
    if incomplete:
        number = f"{len(incomplete)} steps" if len(incomplete) > 1 else "1 step"
        notes.append(
            f"{number} of {table}/ dropped or unfinished on some rank, and left out of the "
            f"defaults: {_list(incomplete)}"
        )
    return notes


def _step(
    log: Log, table: str, steps: list[int], asked: int | None, default: int | None, name: str
) -> int:
    step = default if asked is None else asked
    if step is None or step not in steps:
        raise LogError(
            f"{log.name}: {table}/ has no step {step}; --{name} must be one of {_list(steps)}"
        )
    return step


def _no_context(
    log: Log, table: str, steps: list[int], complete: list[int], post: int, params: DetectParams
) -> str | None:
    """Why there is no before and after of the same text; None if there is."""
    if params.context == "off":
        return "it was switched off"
    if table != "fixed":
        which = "was chosen" if log.shards("fixed") else "is all that the log has"
        return f"rollout/, where every step has its own text, {which}"
    usable = complete if params.pre is None else steps
    if not any(step < post for step in usable) and params.pre is None:
        return f"fixed/ has no complete step before step {post}"
    return None


def _list(steps: list[int], most: int = 12) -> str:
    shown = ", ".join(map(str, steps[:most]))
    return f"{shown}, … {steps[-1]}" if len(steps) > most else shown
