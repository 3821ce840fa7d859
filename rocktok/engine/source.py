"""What `detect` reads: which table, which steps, and its rows with prompts attached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rocktok.analyse.detect import DetectParams
from rocktok.errors import LogError, UsageError
from rocktok.log.pairs import Pairs
from rocktok.log.reader import Log
from rocktok.log.sequences import Prompts, load_prompts

Rows = dict[str, Any]

REMEDY = "score its text at a second step with `rocktok rescore`"


@dataclass
class Source:
    """Rows of one table at one step (`pre` None) or joined at two.

    Iterating yields batches with sequence_id, prompt (uint64), position, token_id, loss_post and,
    with `pre`, loss_pre; float32 losses, those within rounding of 0 set to 0.
    """

    log: Log
    table: str
    pre: int | None
    post: int
    columns: tuple[str, ...]
    no_context: str | None = None
    notes: list[str] = field(default_factory=list)
    unpaired: int | None = None
    prompts: Prompts = field(init=False)

    def __post_init__(self) -> None:
        self.prompts = load_prompts(self.log)

    def __iter__(self) -> Iterator[Rows]:
        for batch in self._joined() if self.pre is not None else self._single():
            for name in ("loss_pre", "loss_post"):
                if name in batch and self.log.rules.exactness == "exact":
                    batch[name] = np.maximum(batch[name], np.float32(0))
            batch["prompt"] = self.prompts.of(batch["sequence_id"])
            yield batch

    def _single(self) -> Iterator[Rows]:
        for batch in self.log.scan(self.table, ["token_id", "loss", *self.columns], [self.post]):
            rows = dict(batch.columns)
            rows["loss_post"] = rows.pop("loss")
            yield rows

    def _joined(self) -> Iterator[Rows]:
        assert self.pre is not None
        pairs = Pairs(self.log, self.table, self.pre, self.post, self.columns)
        yield from pairs
        self.unpaired = pairs.unpaired


def choose_source(log: Log, params: DetectParams) -> Source:
    """Decide on table and steps.

    Raises `LogError` for a table or step that the log lacks, or when context is required and
    there is no fixed text at two steps; `UsageError` for steps in the wrong order.
    """
    table = params.table
    if table == "auto":
        table = "fixed" if log.shards("fixed") else "rollout"
    if not log.shards(table):
        raise LogError(f"{log.name}: has no {table}/ table; it has {', '.join(log.tables())}")
    steps = [s.step for s in log.steps(table)]
    complete = log.complete_steps(table)
    notes = _notes(log, table, params)
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
    present = set(log.columns(table))
    optional = ("log_ratio", "student_logprob", "teacher_logprob")
    columns = tuple(name for name in optional if name in present)
    return Source(log, table, pre, post, columns, reason, notes)


def _notes(log: Log, table: str, params: DetectParams) -> list[str]:
    notes = list(log.warnings())
    incomplete = log.incomplete_steps(table)
    if incomplete:
        notes.append(
            f"{len(incomplete)} steps of {table}/ are dropped or unfinished on some rank and "
            f"left out of the defaults: {_list(incomplete)}"
        )
    for name in ("pre", "post"):
        if getattr(params, name) in incomplete:
            notes.append(f"--{name} {getattr(params, name)} is incomplete: ranks are missing in it")
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
