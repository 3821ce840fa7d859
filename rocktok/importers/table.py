"""Tables with one row per token: CSV, Parquet, JSON Lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rocktok.schema as schema
from rocktok._types import Array
from rocktok.errors import DamagedError, LogError, UsageError
from rocktok.importers.source import Options, Part, Source, run_of, sampled_loss
from rocktok.importers.table_files import FACTS, NUMBERS, SUFFIXES, batches, header
from rocktok.importers.words import files_of, steps_for
from rocktok.log.buffers import IdRuns

#: Names of its files in a folder.
PATTERNS = ("*.parquet", "*.csv", "*.jsonl")

_LOGPROBS = ("student_logprob", "teacher_logprob")
#: Ids from which on a sequence of a rollout keeps the id that its table has.
_SMALL_IDS = 1 << 32


def read(paths: tuple[Path, ...], options: Options) -> Source:
    """A log of tables whose columns are named, or mapped, as in the format.

    Raises `UsageError` for a map of columns that there are not, `LogError` for tables that lack
    one, or that break the order.
    """
    files = files_of(paths, *PATTERNS)
    for path in files:
        if path.suffix not in SUFFIXES:
            raise UsageError(f"{path}: is no {', '.join(SUFFIXES)} file; give one of these")
    notes: list[str] = []
    names = _names(files[0], options)
    for path in files[1:]:
        try:
            others = _names(path, options)
        except DamagedError as error:
            if path != files[-1]:
                raise
            notes.append(f"the last file is left out, as of a run that was killed: {error}")
            files = files[:-1]
            break
        if others != names:
            apart = sorted(set(names) ^ set(others))
            raise LogError(
                f"{path}: differs from {files[0]} in {', '.join(apart)}; give tables with the "
                "same columns"
            )
    exactness = _exactness(options, names)
    steps = None if "step" in names else steps_for(files, options.steps)
    if steps is None and options.steps is not None:
        raise UsageError("steps is given, and the tables have a step; leave it out", "steps")
    order = range(len(files)) if steps is None else np.argsort(steps).tolist()
    columns = tuple(name for name in schema.OPTIONAL_STATISTICS if name in names)

    def parts() -> Iterator[Part]:
        table = _Rows(options.table, exactness, notes)
        for number in order:
            step = None if steps is None else steps[number]
            yield from table.parts(files[number], names, step)

    if "prompt_id" not in names:
        notes.append("the tables have no prompt_id: each sequence counts as its own prompt")
    return Source(run_of(options, exactness), columns, parts, options.table, notes=notes)


def _names(path: Path, options: Options) -> dict[str, str]:
    """Name in the format → name in the table, of what the table has. Raises `LogError`."""
    known = {**NUMBERS, **FACTS}
    unknown = [name for name in options.columns if name not in known]
    if unknown:
        raise UsageError(
            f"columns has {unknown[0]}, which the format does not; choose from {', '.join(known)}",
            "columns",
        )
    have = header(path)
    names = {name: options.columns.get(name, name) for name in known}
    missing = [name for name in options.columns if names[name] not in have]
    missing += [n for n in ("sequence_id", "token_id") if names[n] not in have and n not in missing]
    with_loss = names["loss"] in have or all(names[name] in have for name in _LOGPROBS)
    if not with_loss and "loss" not in missing:
        missing.append("loss")
    if missing:
        absent = ", ".join(n if names[n] == n else f"{names[n]} ({n})" for n in missing)
        shown = ", ".join(sorted(have)[:12]) + (", …" if len(have) > 12 else "")
        raise LogError(
            f"{path}: has no column {absent}, only {shown}; name the columns with "
            f"--map {missing[0]}=NAME"
        )
    return {name: own for name, own in names.items() if own in have}


def _exactness(options: Options, names: dict[str, str]) -> str:
    if "loss" not in names:
        if options.exactness not in (None, "sampled"):
            raise UsageError(
                f"exactness is {options.exactness}, but the tables have no loss, and log p − log q "
                "is sampled; map a loss, or leave it out",
                "exactness",
            )
        return "sampled"
    if options.exactness is None:
        raise UsageError(
            "exactness is not given; say how the tables' loss was computed: exact (whole "
            "vocabulary), topk, truncated or sampled",
            "exactness",
        )
    return options.exactness


class _Rows:
    """Rows of all tables, in their order, cut into whole sequences."""

    def __init__(self, table: str, exactness: str, notes: list[str]) -> None:
        self._table, self._exactness, self._notes = table, exactness, notes
        self._last: tuple[int, str] | None = None
        self._small: bool | None = None
        self._of_step, self._had = -1, IdRuns()

    def parts(self, path: Path, names: dict[str, str], step: int | None) -> Iterator[Part]:
        """The sequences of one table; `step`: where it has no such column."""
        held: dict[str, Array] = {}
        first = 0
        for batch in batches(path, names, self._notes):
            rows = _checked(path, batch, first, step)
            self._refuse_negative(path, rows["loss"], first)
            first += len(rows["sequence_id"])
            if held:
                rows = {key: np.concatenate([held[key], rows[key]]) for key in rows}
            bounds = _bounds(rows)
            last = int(bounds[-2]) if len(bounds) > 2 else 0
            yield from self._by_step(path, {key: v[:last] for key, v in rows.items()})
            held = {key: values[last:] for key, values in rows.items()}
        if held:
            yield from self._by_step(path, held)

    def _refuse_negative(self, path: Path, loss_N: Array, first: int) -> None:
        if self._exactness == "exact" and (loss_N < schema.EXACT_LOSS_FLOOR).any():
            at = int(np.argmax(loss_N < schema.EXACT_LOSS_FLOOR))
            raise LogError(
                f"{path}: row {first + at + 1}: loss is {loss_N[at]:g}, which an exact reverse KL "
                "never is; give another exactness: sampled, topk or truncated"
            )

    def _by_step(self, path: Path, rows: dict[str, Array]) -> Iterator[Part]:
        step_N = rows["step"]
        edges = np.flatnonzero(np.diff(step_N)) + 1
        for begin, end in zip([0, *edges], [*edges, len(step_N)], strict=True):
            if end > begin:
                yield self._part(path, {key: v[begin:end] for key, v in rows.items()})

    def _part(self, path: Path, rows: dict[str, Array]) -> Part:
        step = int(rows["step"][0])
        if self._last is not None and step < self._last[0]:
            raise LogError(
                f"{path}: step {step} comes after step {self._last[0]}"
                f"{'' if self._last[1] == str(path) else f' of {self._last[1]}'}; sort the rows by "
                "step, sequence_id and position"
            )
        self._last = step, str(path)
        bounds = _bounds(rows)
        start_S, length_S = bounds[:-1], np.diff(bounds)
        self._refuse_again(path, step, rows["sequence_id"][start_S])
        number_N = np.arange(bounds[-1]) - np.repeat(start_S, length_S)
        position_N = rows.get("position", number_N)
        id_N = self._ids(path, rows["sequence_id"], step)
        facts = {name: rows[name][start_S].tolist() for name in FACTS if name in rows}
        sequences: dict[str, Any] = {"sequence_id": []}
        if "prompt_id" in facts:
            tokens_S = np.maximum.reduceat(position_N, start_S) + 1
            sequences = {"sequence_id": id_N[start_S], "num_tokens": tokens_S, **facts}
        own = (*schema.OPTIONAL_STATISTICS, "token_id", "loss")
        return Part(
            str(path),
            step,
            sequences,
            {
                "sequence_id": id_N,
                "position": position_N,
                **{name: rows[name] for name in own if name in rows},
            },
        )

    def _refuse_again(self, path: Path, step: int, id_S: Array) -> None:
        """Raise `LogError` where a sequence is not in one piece."""
        if self._of_step != step:
            self._of_step, self._had = step, IdRuns()
        distinct_S, count_S = np.unique(id_S, return_counts=True)
        again_S = (count_S > 1) | self._had.holds(distinct_S)
        if again_S.any():
            raise LogError(
                f"{path}: sequence {distinct_S[np.argmax(again_S)]} of step {step} comes back "
                "after others; sort the rows by step, sequence_id and position"
            )
        self._had.add(distinct_S)

    def _ids(self, path: Path, id_N: Array, step: int) -> Array:
        """Distinct over the steps of rollouts, where tables number each step's from 0."""
        if self._table == "fixed":
            return id_N
        small = bool((id_N < _SMALL_IDS).all())
        if self._small is None:
            self._small = small
        if self._small != small:
            raise LogError(
                f"{path}: sequence_id {int(id_N.max())} and ids below {_SMALL_IDS} beside it; "
                "number the sequences from 0"
            )
        return id_N + step * _SMALL_IDS if small else id_N


def _bounds(rows: dict[str, Array]) -> Array:
    """Where sequences begin, and the end."""
    step_N, id_N = rows["step"], rows["sequence_id"]
    changes = np.flatnonzero((np.diff(step_N) != 0) | (np.diff(id_N) != 0)) + 1
    return np.concatenate(([0], changes, [len(id_N)]))


def _checked(path: Path, batch: dict[str, Any], first: int, step: int | None) -> dict[str, Array]:
    """Columns as arrays, with `step` and `loss`. Raises `LogError` for what is empty or NaN."""
    rows: dict[str, Array] = {}
    for name, column in batch.items():
        if column.null_count and name not in ("domain", "finish_reason", "correct", "rollout"):
            at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise LogError(
                f"{path}: row {first + at + 1}: {name} is empty or NaN; give every value"
            )
        if name in FACTS:
            rows[name] = np.array(column.to_pylist(), dtype=object)
            continue
        values = column.to_numpy(zero_copy_only=False)
        bad = ~np.isfinite(values) if values.dtype.kind == "f" else values < 0
        if bad.any():
            at = int(np.argmax(bad))
            wanted = "a finite number" if values.dtype.kind == "f" else "0 or more"
            raise LogError(
                f"{path}: row {first + at + 1}: {name} is {values[at]}; it must be {wanted}"
            )
        rows[name] = values
    if step is not None:
        rows["step"] = np.full(len(rows["sequence_id"]), step)
    if "loss" not in rows:
        where = f"{path}: from row {first + 1}"
        rows["loss"] = sampled_loss(rows[_LOGPROBS[0]], rows[_LOGPROBS[1]], where)
    return rows
