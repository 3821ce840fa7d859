"""`text` of a log: sequences for a notebook, with the recorded values of each token.

One pass finds which sequences there are; each step shown is then one more, over these sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, cast

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.result import DetectResult
from rocktok.analyses.run import LogOrPath, Run, opened, public
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.log.sequences import load_rows
from rocktok.report.page.labels import column_label
from rocktok.report.page.page_data import Text
from rocktok.report.page.render import render_page
from rocktok.report.sequences import DrawnSequences, SequenceRows
from rocktok.report.text_view import DIGITS, STEPS, VALUES, SequenceFacts, SequenceText
from rocktok.schema import OCCURRENCE_COLUMNS
from rocktok.tables.text import counted

#: Number of sampled sequences where no ids are given.
DRAWN = 3

#: A sequence's rows at a step, by column.
Occurrences = dict[str, Array]


@dataclass(frozen=True, repr=False)
class TextView:
    """Sequences as text, shaded by the recorded values of each token; notebooks display it.

    Attributes:
        log: path or address of the log.
        content: what the text view shows, in the form of the report's page.
    """

    log: str
    content: Text

    @property
    def sequences(self) -> tuple[int, ...]:
        """Ids of the sequences shown."""
        return tuple(sequence["sequence_id"] for sequence in self.content["sequences"])

    def __repr__(self) -> str:
        steps = ", ".join(map(str, self.content["steps"]))
        shown = counted(len(self.sequences), "sequence")
        return f"text of {shown} of {self.log} ({self.content['table']}/, step {steps})"

    def to_html(self) -> str:
        """The page, in one file that loads nothing from elsewhere."""
        said = f"Text of {self.log}."
        return render_page(
            {
                "title": f"Text of {self.log}",
                "embedded": True,
                "summary": [{"text": said, "numbers": []}],
                "text": self.content,
            }
        )

    def _repr_html_(self) -> str:
        """The page in an iframe, so that its styles and scripts do not affect the notebook."""
        page = escape(self.to_html(), quote=True)
        return (
            f'<iframe title="{escape(repr(self), quote=True)}" sandbox="allow-scripts" '
            'style="width: 100%; height: 36rem; resize: vertical; border: 1px solid '
            f'rgba(128, 128, 128, 0.4); border-radius: 6px" srcdoc="{page}"></iframe>'
        )


@public
def text(
    log: LogOrPath,
    sequence: int | Iterable[int] | None = None,
    *,
    detected: DetectResult | None = None,
    sequences: int = DRAWN,
    table: str = "auto",
    seed: int = 0,
    engine: Engine | None = None,
) -> TextView:
    """Sequences of a log as text in a notebook: hover for numbers, move through the steps.

    Kept text is shown at up to 12 of the steps at which it was scored, a rollout at the step at
    which it was written.

    Args:
        log: an open log (`rocktok.open`), or the path of one.
        sequence: id of a sequence, or several; None: some drawn at random.
        detected: what `rocktok.detect` found here: its rocks are outlined, persistent occurrences
            marked.
        sequences: how many are drawn where none are named.
        table: "fixed", "rollout", or "auto": that of `detected`, else fixed/ where there is one.
        seed: of the draw.
        engine: what makes the passes; default: threads on the cores this process may use.

    Raises:
        TypeError: a keyword that is none of the above; the message names the nearest.
        UsageError: `sequences` below 1, no sequence named, or a `detected` of another run.
        LogError: the log is damaged, or lacks the table, its complete steps or a sequence.
    """
    if sequences < 1:
        raise UsageError(f"sequences is {sequences}; it must be 1 or more", parameter="sequences")
    log = opened(log)
    if detected is not None and detected.log["run_id"] != log.run_id:
        raise UsageError(
            f"detected is of run {detected.log['run_id']}, {log.name} of run {log.run_id}; give "
            "what `rocktok.detect` finds in this log",
            parameter="detected",
        )
    if table == "auto" and detected is not None:
        table = detected.log["table"]
    run = Run.begin(log, engine, table, seed)
    if not run.view.complete:
        raise LogError(f"{log.name}: no step of {run.table}/ is complete on every rank")
    ids = None if sequence is None else _ids(sequence)
    return TextView(log.name, _Reading(run, detected, ids, sequences).content())


def _ids(sequence: int | Iterable[int]) -> list[int]:
    named = [sequence] if isinstance(sequence, int | np.integer) else list(sequence)
    if not named:
        raise UsageError("sequence names none; give an id, several, or None", parameter="sequence")
    return [int(v) for v in dict.fromkeys(named)]


@dataclass(frozen=True)
class _Reading:
    """One reading of some sequences; `ids` None: `most` of them, drawn."""

    run: Run
    detected: DetectResult | None
    ids: list[int] | None
    most: int

    def content(self) -> Text:
        """Content of the text view."""
        drawn = DrawnSequences(self.run.seed, self.most)
        self.run.engine.run(self.run.source(self.run.view.complete[-1]), drawn)
        ids = drawn.result() if self.ids is None else self.ids
        facts = load_rows(self.run.log, np.array(ids, dtype=np.int64))
        steps = self._steps(facts)
        columns = self._columns()
        by_step = [self._rows(step, ids, columns) for step in steps]
        self._demand(ids, by_step, steps)
        shown: list[SequenceText] = []
        room, left_out, cut = VALUES // (len(steps) * len(columns)), 0, []
        for v in ids:
            row = self._sequence(v, steps, [rows.get(v) for rows in by_step], facts, columns)
            length = len(row["token_ids"])
            if length > room and shown:
                left_out += 1
                continue
            if length > room:
                row = _shortened(row, room)
                cut.append(f"Sequence {v} is shown up to its token {room:,} of {length:,}.")
            room -= min(length, room)
            shown.append(row)
        if left_out:
            cut.append(f"{counted(left_out, 'sequence')} left out: {VALUES:,} values at most.")
        if self.run.table != "fixed":
            # A rollout has the losses of one step, so there is no slider.
            shown = [_own_step(row) for row in shown]
        used = sorted({v for row in shown for v in row["token_ids"]})
        rocks = {row["token_id"] for row in self.detected.rocks} if self.detected else set()
        several = self.run.table == "fixed" and len(steps) > 1
        return {
            "table": self.run.table,
            "steps": steps,
            "columns": [
                {"key": name, "label": column_label(name), "unit": unit, "by_step": several}
                for name, unit in columns.items()
            ],
            "tokens": {str(v): self.run.log.vocab.text(v) for v in used},
            "rocks": [v for v in used if v in rocks],
            "sequences": shown,
            "shown": len(shown),
            "total": max(drawn.seen, len(shown)),
            "capped": " ".join(cut) or None,
        }

    def _steps(self, facts: Mapping[int, Mapping[str, Any]]) -> list[int]:
        """Kept text: evenly spaced, with those of `detected`. Rollouts: when they were written."""
        complete = list(self.run.view.complete)
        if self.run.table != "fixed":
            written = {row["step"] for row in facts.values()} & set(self.run.view.steps)
            return sorted(written) if self.ids is not None and written else complete[-1:]
        ends = {step for step in self._pre_post() if step is not None}
        if len(complete) > STEPS:
            at = np.unique(np.linspace(0, len(complete) - 1, STEPS).round().astype(int))
            complete = [complete[place] for place in at.tolist()]
        return sorted(ends.union(complete))

    def _pre_post(self) -> tuple[int | None, int | None]:
        if self.detected is None or self.detected.log["table"] != self.run.table:
            return None, None
        return self.detected.log["pre"], self.detected.log["post"]

    def _columns(self) -> dict[str, str]:
        """Column → unit, the loss first."""
        present = self.run.log.columns(self.run.table)
        others = {c.name: c.unit for c in OCCURRENCE_COLUMNS if not c.required}
        return {"loss": "nats", **{n: unit for n, unit in others.items() if n in present}}

    def _rows(self, step: int, ids: Sequence[int], columns: Iterable[str]) -> dict[int, Any]:
        rows = SequenceRows(tuple(columns))
        only = np.sort(np.array(ids, dtype=np.int64))
        self.run.engine.run(self.run.source(step, only=only), rows)
        return rows.result()

    def _demand(
        self, ids: Iterable[int], by_step: Sequence[Mapping[int, Any]], steps: Sequence[int]
    ) -> None:
        absent = [v for v in ids if not any(v in rows for rows in by_step)]
        if absent:
            raise LogError(
                f"{self.run.log.name}: {self.run.table}/ has no sequence "
                f"{', '.join(map(str, absent))} at step {', '.join(map(str, steps))}; `contexts` "
                "in a report's JSON and the column sequence_id of the table have ids"
            )

    def _sequence(
        self,
        v: int,
        steps: Sequence[int],
        at_steps: Sequence[Occurrences | None],
        facts: Mapping[int, Mapping[str, Any]],
        columns: Iterable[str],
    ) -> SequenceText:
        last = next(rows for rows in reversed(at_steps) if rows is not None)
        positions: list[int] = last["position"].tolist()
        vocab, known = self.run.log.vocab.text, facts.get(v, {})
        prompt = known.get("prompt_token_ids")
        optional = {n: known[n] for n in ("domain", "correct") if known.get(n) is not None}
        # Values of a step that scored other positions cannot be aligned with these.
        same = [
            rows if rows is not None and rows["position"].tolist() == positions else None
            for rows in at_steps
        ]
        return {
            "sequence_id": v,
            "prompt_id": known.get("prompt_id"),
            "prompt": None if prompt is None else "".join(map(vocab, prompt)),
            **cast(SequenceFacts, optional),
            "token_ids": last["token_id"].tolist(),
            "positions": positions,
            "persistent": self._persistent(steps, same),
            # Retained occurrences are not computed here.
            "retained": [],
            "values": {name: [_values(rows, name, len(positions)) for rows in same]
                       for name in columns},
            "why": "drawn at random" if self.ids is None else "asked for",
        }  # fmt: skip

    def _persistent(
        self, steps: Sequence[int], at_steps: Sequence[Occurrences | None]
    ) -> list[int]:
        """0 or 1 by position; [] where `detected` does not say."""
        pre, post = self._pre_post()
        if self.detected is None or pre is None or post is None:
            return []
        found = self.detected.thresholds
        first, last = (at_steps[steps.index(step)] for step in (pre, post))
        if found["tau_pre"] is None or first is None or last is None:
            return []
        thresholds = Thresholds(found["tau_pre"], found["tau_post"], found["tau_change"])
        marks: list[int] = thresholds.persistent(first["loss"], last["loss"]).astype(int).tolist()
        return marks


def _values(rows: Occurrences | None, name: str, length: int) -> list[float | None]:
    if rows is None:
        return [None] * length
    return [float(f"{value:.{DIGITS}g}") for value in rows[name].tolist()]


def _own_step(row: SequenceText) -> SequenceText:
    """A rollout with the values of the one step that has it."""
    kept = {
        name: [next(values for values in by_step if values[0] is not None)]
        for name, by_step in row["values"].items()
    }
    return {**row, "values": kept}


def _shortened(row: SequenceText, length: int) -> SequenceText:
    """Only the first tokens of a sequence."""
    return {
        **row,
        "token_ids": row["token_ids"][:length],
        "positions": row["positions"][:length],
        "persistent": row["persistent"][:length],
        "values": {name: [step[:length] for step in at] for name, at in row["values"].items()},
    }
