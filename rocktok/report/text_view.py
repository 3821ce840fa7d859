"""Sequences of a log as text: which ones, and everything that was recorded of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from rocktok._types import Array
from rocktok.log.sequences import load_rows
from rocktok.report.sensitivity import RockContexts
from rocktok.report.sequences import DrawnSequences, SequenceRows
from rocktok.schema import OCCURRENCE_COLUMNS

if TYPE_CHECKING:
    from rocktok.analyses.detect.detection import Detection

#: A sequence's rows at a step, by column.
Occurrences = dict[str, Array]

#: Steps shown at most, evenly spaced, the outermost among them.
STEPS = 12

#: Numbers shown at most: tokens × steps × columns.
VALUES = 300_000

#: Significant digits of what is shown.
DIGITS = 4

#: Of the sequences shown, one in this many is there for the contexts it holds, not drawn.
FOR_CONTEXTS = 3


class SequenceFacts(TypedDict, total=False):
    """What only some logs say of a sequence."""

    domain: str
    correct: bool


class SequenceText(SequenceFacts):
    """A sequence: its prompt, its tokens, and what each was at the steps shown.

    `persistent`, `retained`: 0 or 1 by token. `values`: column → by step, by token; None where the
    step does not have the sequence. `why`: it is shown.
    """

    sequence_id: int
    prompt_id: str | int | None
    prompt: str | None
    token_ids: list[int]
    positions: list[int]
    persistent: list[int]
    retained: list[int]
    values: dict[str, list[list[float | None]]]
    why: str


class TextColumn(TypedDict):
    """A column of `SequenceText.values`, and its unit."""

    key: str
    unit: str


class Texts(TypedDict):
    """Sequences shown as text, of how many, and what was cut for want of room."""

    table: str
    steps: list[int]
    columns: list[TextColumn]
    sequences: list[SequenceText]
    total: int
    capped: str | None


def sequence_texts(
    detection: Detection, drawn: DrawnSequences, contexts: dict[int, RockContexts], most: int
) -> Texts:
    """Sequences with their tokens, and with all values at some steps; which are retained.

    Args:
        drawn: offered all sequences.
        contexts: of the rocks: sequences that hold them are shown beside those drawn.
        most: sequences.
    """
    ids = _choose(drawn, contexts, most)
    id_S = np.sort(np.array(list(ids), dtype=np.int64))
    steps, recorded = _steps(detection)
    columns = _columns(detection)
    by_step = []
    for step in steps:
        rows = SequenceRows(tuple(columns))
        source = replace(detection.source, pre=None, post=step, only=id_S)
        detection.run.engine.run(source, rows)
        by_step.append(rows.result())
    facts = load_rows(detection.run.log, id_S)
    marks = _marks(detection, id_S)
    shown: list[SequenceText] = []
    room, left_out, cut = VALUES // (len(steps) * len(columns)), 0, []
    if len(steps) < recorded:
        cut.append(f"Of {recorded} steps {len(steps)} are shown, evenly spaced.")
    for v, why in ids.items():
        at_steps = [sequences.get(v) for sequences in by_step]
        length = len(_last(at_steps)["token_id"])
        if shown and length > room:
            left_out += 1
            continue
        row = _sequence(detection, v, steps, at_steps, facts.get(v, {}), marks, columns, why)
        if length > room:
            row = _shortened(row, room)
            cut.append(f"Sequence {v} is shown up to its token {room:,} of {length:,}.")
        room -= min(length, room)
        shown.append(row)
    if left_out:
        cut.append(
            f"At most {VALUES:,} values are shown: {left_out} of {len(ids)} sequences are left "
            "out for want of room."
        )
    return {
        "table": detection.run.table,
        "steps": steps,
        "columns": [{"key": name, "unit": unit} for name, unit in columns.items()],
        "sequences": shown,
        "total": drawn.seen,
        "capped": " ".join(cut) or None,
    }


def _choose(drawn: DrawnSequences, contexts: dict[int, RockContexts], most: int) -> dict[int, str]:
    """Sequence → why it is shown: drawn, or for a context of one of the first rocks."""
    with_context = dict.fromkeys(
        (c["examples"][0]["sequence_id"] for c in contexts.values() if c["examples"]),
        "holds a context",
    )
    at_random = dict.fromkeys(drawn.result(), "drawn at random")
    first = most - min(len(with_context), most // FOR_CONTEXTS)
    ids = dict(list(at_random.items())[:first])
    for v, why in chain(with_context.items(), at_random.items()):
        if len(ids) < most:
            ids.setdefault(v, why)
    return ids


def _steps(detection: Detection) -> tuple[list[int], int]:
    """(steps at which the same text is shown; of rollouts, the last; of how many)."""
    pre, post = detection.steps.pre, detection.steps.post
    if detection.run.table != "fixed":
        return [post], 1
    ends = {post} if pre is None else {pre, post}
    steps = sorted({s for s in detection.run.view.complete if s <= post} | ends)
    if len(steps) <= STEPS:
        return steps, len(steps)
    places = np.unique(np.linspace(0, len(steps) - 1, STEPS).round().astype(int))
    return sorted({steps[at] for at in places.tolist()} | ends), len(steps)


def _columns(detection: Detection) -> dict[str, str]:
    """Column → unit, of what was recorded of each occurrence, the loss first."""
    present = detection.run.log.columns(detection.run.table)
    optional = {c.name: c.unit for c in OCCURRENCE_COLUMNS if not c.required and c.name in present}
    return {"loss": "nats", **optional}


def _marks(detection: Detection, ids: Array) -> dict[int, frozenset[int]]:
    """Sequence → positions of retained occurrences of rocks, of those judged one by one."""
    retained: dict[int, set[int]] = {}
    types = detection.types
    for index, context in types.context.items():
        if context.hit_sequences is None or int(types.token_T[index]) not in detection.rocks:
            continue
        assert context.hit_positions is not None
        here = np.isin(context.hit_sequences, ids)
        sequences, positions = context.hit_sequences[here], context.hit_positions[here]
        for v, position in zip(sequences.tolist(), positions.tolist(), strict=True):
            retained.setdefault(v, set()).add(position)
    return {v: frozenset(positions) for v, positions in retained.items()}


def _last(at_steps: Sequence[Occurrences | None]) -> Occurrences:
    """A sequence at the last step; where that lacks it, at the first that has it."""
    there = [rows for rows in at_steps if rows is not None]
    return there[0] if at_steps[-1] is None else there[-1]


def _sequence(
    detection: Detection,
    v: int,
    steps: list[int],
    at_steps: list[Occurrences | None],
    facts: Mapping[str, Any],
    retained: Mapping[int, frozenset[int]],
    columns: Iterable[str],
    why: str,
) -> SequenceText:
    last = _last(at_steps)
    positions: list[int] = last["position"].tolist()
    text = detection.run.log.vocab.text
    prompt, here = facts.get("prompt_token_ids"), retained.get(v, frozenset())
    optional = {name: facts[name] for name in ("domain", "correct") if facts.get(name) is not None}
    return {
        "sequence_id": v,
        "prompt_id": facts.get("prompt_id"),
        "prompt": None if prompt is None else "".join(text(u) for u in prompt),
        **cast(SequenceFacts, optional),
        "token_ids": last["token_id"].tolist(),
        "positions": positions,
        "persistent": _persistent(detection, steps, at_steps, positions),
        "retained": [int(p in here) for p in positions],
        "values": {name: [_column(rows, name, positions) for rows in at_steps] for name in columns},
        "why": why,
    }


def _column(rows: Occurrences | None, name: str, positions: list[int]) -> list[float | None]:
    """Rounded values at the positions; None where the step does not have the sequence."""
    if rows is None or rows["position"].tolist() != positions:
        return [None] * len(positions)
    return [float(f"{value:.{DIGITS}g}") for value in rows[name].tolist()]


def _persistent(
    detection: Detection,
    steps: list[int],
    at_steps: list[Occurrences | None],
    positions: list[int],
) -> list[int]:
    """0 or 1: whether each position is a persistent occurrence."""
    thresholds, pre = detection.thresholds, detection.steps.pre
    none = [0] * len(positions)
    if thresholds is None or pre is None:
        return none
    ends = [at_steps[steps.index(step)] for step in (pre, detection.steps.post)]
    losses = [
        rows["loss"] for rows in ends if rows is not None and rows["position"].tolist() == positions
    ]
    if len(losses) < 2:
        return none
    marks: list[int] = thresholds.persistent(*losses).astype(int).tolist()
    return marks


def _shortened(row: SequenceText, length: int) -> SequenceText:
    """Only the first tokens of a sequence."""
    return {
        **row,
        "token_ids": row["token_ids"][:length],
        "positions": row["positions"][:length],
        "persistent": row["persistent"][:length],
        "retained": row["retained"][:length],
        "values": {key: [step[:length] for step in at] for key, at in row["values"].items()},
    }
