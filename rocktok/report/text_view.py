"""Sequences of a log as text: their choice, and the values recorded at each position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from rocktok._types import Array
from rocktok.report import alternatives
from rocktok.report.sensitivity import RockContexts
from rocktok.report.sequences import DrawnSequences, Occurrences, SequenceRows
from rocktok.schema import OCCURRENCE_COLUMNS
from rocktok.stats.sums import TypeSums

if TYPE_CHECKING:
    from rocktok.analyses.detect.detection import Detection

#: Maximum number of steps, evenly spaced, with the first and the last.
STEPS = 12

#: Maximum number of values on the page: tokens × steps × columns.
VALUES = 300_000

#: Significant digits of the values.
DIGITS = 4

#: Share of the sequences that are chosen for the contexts they contain, not at random.
FOR_CONTEXTS = 2 / 3

#: Maximum number of alternatives on the page.
MOST_ALTERNATIVES = 200_000


class SequenceFacts(TypedDict, total=False):
    """What only some logs say of a sequence; `log`: in a comparison, which it is of."""

    log: int

    domain: str
    correct: bool
    alternatives: alternatives.Alternatives


class StepLoss(TypedDict):
    """Mean loss of a type at a step."""

    step: int
    loss: float


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
    """The text view: its sequences, the number in the log, and what was cut to fit."""

    table: str
    steps: list[int]
    columns: list[TextColumn]
    sequences: list[SequenceText]
    total: int
    capped: str | None


@dataclass(frozen=True)
class Steps:
    """Rows and mean losses at the steps of the text view.

    `rows`: by step, sequence → its rows. `curves`: type → its mean losses. `recorded`: how many
    steps there are to show.
    """

    steps: list[int]
    recorded: int
    columns: dict[str, str]
    rows: list[dict[int, Occurrences]]
    curves: dict[int, list[StepLoss]]


def at_steps(detection: Detection, ids: Iterable[int], types: Iterable[int]) -> Steps:
    """One pass for each step shown: the rows of some sequences, and mean losses of some types."""
    id_S = np.sort(np.array(list(ids), dtype=np.int64))
    steps, recorded = _steps(detection)
    columns = _columns(detection)
    curves: dict[int, list[StepLoss]] = {v: [] for v in types}
    by_step = []
    for step in steps:
        source = replace(detection.source, pre=None, post=step)
        more: tuple[str, ...] = ()
        # The student's alternatives change with the step, and those of all steps are too many.
        ends = step in (detection.steps.pre, detection.steps.post)
        if ends and len(id_S) and source.lacks("alternatives") is None:
            more = alternatives.COLUMNS
        rows = SequenceRows((*columns, *more), id_S)
        sums = TypeSums(("loss",), compiled=source.large)
        detection.run.engine.run(source, rows, sums, patient=True)
        by_step.append(rows.result())
        count_V, sum_V = sums.count_V, sums.sum_V["loss"]
        for v, curve in curves.items():
            if v < len(count_V) and count_V[v]:
                curve.append({"step": step, "loss": float(sum_V[v] / count_V[v])})
    return Steps(steps, recorded, columns, by_step, curves)


def sequence_texts(detection: Detection, read: Steps, ids: Mapping[int, str], total: int) -> Texts:
    """Sequences with their tokens, and with all values at some steps; which are retained.

    Args:
        read: the rows of these sequences at the steps shown.
        ids: sequence → why it is shown.
        total: sequences of the log.
    """
    # Figures are drawn in processes that read no log.
    from rocktok.log.sequences import load_rows

    id_S = np.sort(np.array(list(ids), dtype=np.int64))
    steps, recorded, columns, by_step = read.steps, read.recorded, read.columns, read.rows
    facts = load_rows(detection.run.log, id_S)
    marks = _marks(detection, id_S)
    shown: list[SequenceText] = []
    others_left, without = MOST_ALTERNATIVES, 0
    room, left_out, cut = VALUES // (len(steps) * len(columns)), 0, []
    if len(steps) < recorded:
        cut.append(f"Of {recorded} steps {len(steps)} are shown, evenly spaced.")
    for v, why in ids.items():
        rows = [sequences.get(v) for sequences in by_step]
        length = len(_last(rows)["token_id"])
        if shown and length > room:
            left_out += 1
            continue
        row = _sequence(detection, v, steps, rows, facts.get(v, {}), marks, columns, why)
        # One limit for all sequences, filled in their order.
        others = alternatives.at_positions(steps, rows, row["positions"])
        numbers = 0 if others is None else alternatives.count(others)
        if others is not None and numbers <= others_left:
            row["alternatives"] = others
            others_left -= numbers
        elif others is not None:
            without += 1
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
    if without:
        cut.append(f"What else the models held likely is left out of {without} of them.")
    return {
        "table": detection.run.table,
        "steps": steps,
        "columns": [{"key": name, "unit": unit} for name, unit in columns.items()],
        "sequences": shown,
        "total": total,
        "capped": " ".join(cut) or None,
    }


def choose(drawn: DrawnSequences, contexts: dict[int, RockContexts], most: int) -> dict[int, str]:
    """Sequence → why it is shown: drawn, or for the contexts of rocks that it holds.

    Those for contexts are taken one by one, each time the one that holds a context of the most
    rocks that have none yet, and of these the one that holds the most contexts.
    """
    held: dict[int, list[int]] = {}
    for rock, context in contexts.items():
        for example in context["examples"]:
            held.setdefault(example["sequence_id"], []).append(rock)
    chosen: dict[int, str] = {}
    room, open_rocks = int(most * FOR_CONTEXTS), set(contexts)
    while held and len(chosen) < room:
        best = max(held, key=lambda v: (len(open_rocks.intersection(held[v])), len(held[v]), -v))
        open_rocks.difference_update(held.pop(best))
        chosen[best] = "holds contexts"
    at_random = {v: "drawn at random" for v in drawn.result() if v not in chosen}
    # If not all fit, sequences with contexts come before sampled ones.
    return {**chosen, **dict(list(at_random.items())[: most - len(chosen)])}


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
    others = row.get("alternatives")
    kept: SequenceFacts = {}
    if others is not None:
        kept["alternatives"] = alternatives.shortened(others, length)
    return {
        **row,
        **kept,
        "token_ids": row["token_ids"][:length],
        "positions": row["positions"][:length],
        "persistent": row["persistent"][:length],
        "retained": row["retained"][:length],
        "values": {key: [step[:length] for step in at] for key, at in row["values"].items()},
    }
