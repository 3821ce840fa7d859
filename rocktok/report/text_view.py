"""Sequences of a log as text: which ones, and everything that was recorded of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok._types import Array
from rocktok.log.sequences import load_rows
from rocktok.report.sequences import DrawnSequences, SequenceRows
from rocktok.schema import OCCURRENCE_COLUMNS

if TYPE_CHECKING:
    from rocktok.analyses.detect.passes import DetectRun
    from rocktok.engine.passes import Engine

Row = dict[str, Any]

#: Steps shown at most, evenly spaced, the outermost among them.
STEPS = 12

#: Numbers shown at most: tokens × steps × columns.
VALUES = 300_000

#: Significant digits of what is shown.
DIGITS = 4

#: Of the sequences shown, one in this many is there for the contexts it holds, not drawn.
FOR_CONTEXTS = 3


def sequence_texts(
    run: DetectRun, engine: Engine, drawn: DrawnSequences, contexts: dict[int, Row], most: int
) -> Row:
    """Sequences with their tokens, and with all values at some steps; which are retained.

    Args:
        run: of `detect`, done.
        drawn: offered all sequences.
        contexts: of the rocks: sequences that hold them are shown beside those drawn.
        most: sequences.
    """
    chosen = _choose(drawn, contexts, most)
    ids = np.sort(np.array([v for v, _ in chosen], dtype=np.int64))
    steps, recorded = _steps(run)
    columns = _columns(run)
    by_step = {}
    for step in steps:
        rows = SequenceRows(tuple(columns))
        engine.run(replace(run.source, pre=None, post=step, only=ids), rows)
        by_step[step] = rows.result()
    facts = load_rows(run.log, ids)
    marks = _marks(run, ids)
    shown: list[Row] = []
    room, left_out, cut = VALUES // (len(steps) * len(columns)), 0, []
    if len(steps) < recorded:
        cut.append(f"Of {recorded} steps {len(steps)} are shown, evenly spaced.")
    for v, why in chosen:
        held = [by_step[step].get(v) for step in steps]
        last = held[-1] if held[-1] is not None else next(h for h in held if h is not None)
        length = len(last["token_id"])
        if shown and length > room:
            left_out += 1
            continue
        row = _sequence(
            run, v, steps, held, last, facts.get(v, {}), marks.get(v, frozenset()), columns
        )
        if length > room:
            row = _shortened(row, room)
            cut.append(f"Sequence {v} is shown up to its token {room:,} of {length:,}.")
        room -= min(length, room)
        shown.append({**row, "why": why})
    if left_out:
        cut.append(
            f"At most {VALUES:,} values are shown: {left_out} of {len(chosen)} sequences are left "
            "out for want of room."
        )
    return {
        "table": run.view.table,
        "steps": steps,
        "columns": [{"key": "loss" if name == "loss_post" else name, "unit": unit}
                    for name, unit in columns.items()],
        "sequences": shown,
        "total": drawn.seen,
        "capped": " ".join(cut) or None,
    }  # fmt: skip


def _choose(drawn: DrawnSequences, contexts: dict[int, Row], most: int) -> list[tuple[int, str]]:
    """(sequence, why it is shown): drawn, and some that hold contexts of the first rocks."""
    held: dict[int, str] = {}
    for context in contexts.values():
        for example in context["examples"][:1]:
            held.setdefault(example["sequence_id"], "holds a context")
    ids = drawn.result()
    chosen = dict.fromkeys(ids[: most - min(len(held), most // FOR_CONTEXTS)], "drawn at random")
    for v, why in held.items():
        if len(chosen) < most:
            chosen.setdefault(v, why)
    for v in ids:
        if len(chosen) < most:
            chosen.setdefault(v, "drawn at random")
    return list(chosen.items())


def _steps(run: DetectRun) -> tuple[list[int], int]:
    """(steps at which the same text is shown; of rollouts, the last; of how many)."""
    choice = run.choice
    if run.view.table != "fixed":
        return [choice.post], 1
    complete = [s for s in run.log.complete_steps("fixed") if s <= choice.post]
    steps = sorted({*complete, choice.post, *([] if choice.pre is None else [choice.pre])})
    if len(steps) <= STEPS:
        return steps, len(steps)
    places = np.unique(np.linspace(0, len(steps) - 1, STEPS).round().astype(int))
    kept = {steps[at] for at in places.tolist()}
    ends = {choice.post} | ({choice.pre} if choice.pre is not None else set())
    return sorted(kept | ends), len(steps)


def _columns(run: DetectRun) -> dict[str, str]:
    """Column → unit, of what was recorded of each occurrence, the loss first."""
    present = run.log.columns(run.view.table)
    optional = {c.name: c.unit for c in OCCURRENCE_COLUMNS if not c.required and c.name in present}
    return {"loss_post": "nats", **optional}


def _marks(run: DetectRun, ids: Array) -> dict[int, frozenset[int]]:
    """Sequence → positions of retained occurrences of rocks, of those judged one by one."""
    found: dict[int, set[int]] = {}
    rocks = set(run.density.rocks.tolist())
    for index, context in run.types.context.items():
        if int(run.types.token_T[index]) not in rocks or context.hit_sequences is None:
            continue
        assert context.hit_positions is not None
        here = np.isin(context.hit_sequences, ids)
        pairs = zip(context.hit_sequences[here], context.hit_positions[here], strict=True)
        for v, position in pairs:
            found.setdefault(int(v), set()).add(int(position))
    return {v: frozenset(positions) for v, positions in found.items()}


def _sequence(
    run: DetectRun, v: int, steps: list[int], held: list[Any], last: dict[str, Array],
    facts: Row, retained: frozenset[int], columns: dict[str, str],
) -> Row:  # fmt: skip
    positions = last["position"].tolist()
    text = run.log.vocab.text
    prompt = facts.get("prompt_token_ids")
    values: dict[str, list[list[float | None]]] = {}
    for name in columns:
        key = "loss" if name == "loss_post" else name
        values[key] = [_column(rows, name, positions) for rows in held]
    return {
        "sequence_id": v,
        "prompt_id": facts.get("prompt_id"),
        "prompt": None if prompt is None else "".join(text(u) for u in prompt),
        **{name: facts[name] for name in ("domain", "correct") if facts.get(name) is not None},
        "token_ids": last["token_id"].tolist(),
        "positions": positions,
        "persistent": _persistent(run, steps, held, positions),
        "retained": [int(p in retained) for p in positions],
        "values": values,
    }


def _column(rows: Any, name: str, positions: list[int]) -> list[float | None]:
    """Rounded values at the positions; None where the step does not have the sequence."""
    if rows is None or rows["position"].tolist() != positions:
        return [None] * len(positions)
    return [float(f"{value:.{DIGITS}g}") for value in rows[name].tolist()]


def _persistent(run: DetectRun, steps: list[int], held: list[Any], positions: list[int]) -> Any:
    """(rows,) 0 or 1: whether each position is a persistent occurrence."""
    pre = run.choice.pre
    none = [0] * len(positions)
    if run.thresholds is None or pre is None:
        return none
    ends = [held[steps.index(step)] for step in (pre, run.choice.post)]
    if any(rows is None or rows["position"].tolist() != positions for rows in ends):
        return none
    marked_N = run.thresholds.persistent(*(rows["loss_post"] for rows in ends))
    return marked_N.astype(int).tolist()


def _shortened(row: Row, length: int) -> Row:
    """Only the first tokens of a sequence."""
    lists = ("token_ids", "positions", "persistent", "retained")
    values = {key: [step[:length] for step in steps] for key, steps in row["values"].items()}
    return {**row, **{name: row[name][:length] for name in lists}, "values": values}
