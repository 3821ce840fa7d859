"""Reads `gradients/`: sums of gradient vectors, of all ranks, for one step.

Shape suffixes: H halves of the prompts (two), T token types, W width of a vector (the vocabulary,
or the dimensions of a sketch), N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import rocktok.schema as schema
from rocktok.errors import DataError, LogError
from rocktok.log.checks import Where, check_values, numpy_view, to_numpy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rocktok._types import Array
    from rocktok.log.catalogue import Log
    from rocktok.log.checks import Rules
    from rocktok.log.shard import OpenShard, Shard

HALVES = 2
#: What must be the same in all rows of a step.
_SETTINGS = ("vocab_size", "sketch_dims", "seed")
_NUMBERS = tuple(c.name for c in schema.GRADIENT_COLUMNS if c.name not in ("kind", "vector"))


@dataclass(frozen=True)
class StepGradients:
    """Sums over all ranks at one step, by half of the prompts and by token type, in float64.

    `vector_HTW` holds Σ g of each type, `global_HW` that of all occurrences, `balanced_HW` Σ g/n
    with n the frequency of the occurrence's type; W is the vocabulary, or `sketch_dims` where
    that is not 0. `norm` and `square` are Σ ‖g‖ and Σ ‖g‖². A type that a half lacks has zeros.
    """

    step: int
    vocab_size: int
    sketch_dims: int
    seed: int
    complete: bool
    token_T: Array
    count_HT: Array
    norm_HT: Array
    square_HT: Array
    vector_HTW: Array
    count_H: Array
    norm_H: Array
    square_H: Array
    global_HW: Array
    balanced_HW: Array


def load_gradients(log: Log, step: int | None = None) -> StepGradients:
    """The gradient sums of a step; without one, of the last complete step.

    Ranks are merged by summation in float64, in the order of the shards. Memory: 16 bytes for each
    type and each number of its vector, and one row group.

    Raises:
        LogError: there are none, none at that step, or a rank's are not there (with
            `allow_missing`: `complete` is False instead).
        DataError: a value breaks a rule, settings differ between rows, or the vocabulary is not
            the log's.
    """
    step = _step(log, step)
    shards = [shard for shard, _ in log.holders("gradients", step)]
    settings, types = _survey(log, shards, step)
    sums = _Sums(types, settings["sketch_dims"] or settings["vocab_size"])
    for shard in shards:
        for rows, vector_NW in _groups(log, shard, step):
            sums.add(rows, vector_NW)
    if sums.lacks_totals():
        raise DataError(
            f"{log.place.show('gradients')}: step {step} lacks rows of kind global or balanced; "
            "every half that has rows must have both"
        )
    return sums.result(step, settings, log.is_complete("gradients", step))


def _step(log: Log, step: int | None) -> int:
    name = log.place.show("gradients")
    steps = [s.step for s in log.steps("gradients")]
    if not steps:
        raise LogError(
            f"{name}: no gradient sums in this log; record them with "
            "Recorder(gradient_types=…) or Recorder(gradient_sketch=…)"
        )
    complete = log.complete_steps("gradients")
    if step is None:
        if not complete:
            raise LogError(f"{name}: no step is complete: every one lacks the sums of some rank")
        return complete[-1]
    shown = ", ".join(map(str, steps))
    if step not in steps:
        raise LogError(f"{name}: nothing at step {step}; there are {shown}")
    if step not in complete and not log.allow_missing:
        raise LogError(
            f"{name}: step {step} lacks the sums of some rank, so that no total is right; choose "
            f"another ({', '.join(map(str, complete)) or 'none is complete'}), or go on with "
            "--allow-missing"
        )
    return step


def _survey(log: Log, shards: Sequence[Shard], step: int) -> tuple[dict[str, int], Array]:
    """The settings of a step, and its types in ascending order, without reading vectors."""
    settings: dict[str, int] = {}
    types: list[Array] = []
    for shard in shards:
        opened = log.open(shard, schema.required_names("gradients"))
        for group, _ in opened.groups():
            rows = checked_rows(log.rules, opened, group)
            here_N = rows["step"] == step
            types.append(rows["token_id"][here_N & (rows["kind"] == "type")])
            for name in _SETTINGS:
                for value in np.unique(rows[name][here_N]).tolist():
                    if settings.setdefault(name, value) != value:
                        raise DataError(
                            f"{opened.name}: row group {group}: {name} {value} at step {step}, "
                            f"but {settings[name]} in other rows of it; sums of a step must agree"
                        )
    return settings, np.unique(np.concatenate(types))


def _groups(log: Log, shard: Shard, step: int) -> Iterator[tuple[dict[str, Array], Array]]:
    opened = log.open(shard)
    for group, _ in opened.groups():
        bounds = opened.group_range(group, "step")
        if bounds is not None and not bounds[0] <= step <= bounds[1]:
            continue
        rows = checked_rows(log.rules, opened, group, vectors=True)
        here_N = rows["step"] == step
        if here_N.any():
            kept = {name: values[here_N] for name, values in rows.items()}
            yield kept, kept.pop("vector")


class _Sums:
    """Adds up rows, whatever their order of types."""

    def __init__(self, token_T: Array, width: int) -> None:
        types = len(token_T)
        self._token_T = token_T
        # Two places more than types: one for global, one for balanced.
        self._count_HS = np.zeros((HALVES, types + 2), dtype=np.int64)
        self._norm_HS = np.zeros((HALVES, types + 2))
        self._square_HS = np.zeros((HALVES, types + 2))
        self._vector_HSW = np.zeros((HALVES, types + 2, width))
        self._totals_HK = np.zeros((HALVES, 2), dtype=bool)

    def add(self, rows: dict[str, Array], vector_NW: Array) -> None:
        types = len(self._token_T)
        for row, vector_W in enumerate(vector_NW):
            half, kind = rows["half"][row], rows["kind"][row]
            if kind == "type":
                place = int(np.searchsorted(self._token_T, rows["token_id"][row]))
            else:
                place = types + int(kind == "balanced")
                self._totals_HK[half, place - types] = True
            self._count_HS[half, place] += rows["count"][row]
            self._norm_HS[half, place] += rows["norm_sum"][row]
            self._square_HS[half, place] += rows["square_sum"][row]
            self._vector_HSW[half, place] += vector_W

    def lacks_totals(self) -> bool:
        """Whether a half has rows, but none of kind global or balanced."""
        return bool((self._count_HS.any(axis=1) & ~self._totals_HK.all(axis=1)).any())

    def result(self, step: int, settings: dict[str, int], complete: bool) -> StepGradients:
        types = len(self._token_T)
        return StepGradients(
            step=step,
            vocab_size=settings["vocab_size"],
            sketch_dims=settings["sketch_dims"],
            seed=settings["seed"],
            complete=complete,
            token_T=self._token_T,
            count_HT=self._count_HS[:, :types],
            norm_HT=self._norm_HS[:, :types],
            square_HT=self._square_HS[:, :types],
            vector_HTW=self._vector_HSW[:, :types],
            count_H=self._count_HS[:, types],
            norm_H=self._norm_HS[:, types],
            square_H=self._square_HS[:, types],
            global_HW=self._vector_HSW[:, types],
            balanced_HW=self._vector_HSW[:, types + 1],
        )


def checked_rows(
    rules: Rules, opened: OpenShard, group: int, *, vectors: bool = False
) -> dict[str, Array]:
    """Columns of one row group; with `vectors`, those too, as (N, W). Raises `DataError`."""
    where = Where(opened.name, group)
    table = opened.read_group(group, [*_NUMBERS, "kind", *(["vector"] if vectors else [])])
    rows = {name: to_numpy(table[name], name, where) for name in _NUMBERS}
    check_values({"step": rows["step"]}, rules, where)
    kinds = np.array(table["kind"].to_pylist(), dtype=object)
    _refuse(~np.isin(kinds, schema.GRADIENT_KINDS), kinds, "kind", where, "is not a kind of sum")
    _check_numbers(rows, kinds == "type", where)
    _check_vocabulary(rules.vocab_size, rows, where)
    rows["kind"] = kinds
    if vectors:
        rows["vector"] = _matrix(table["vector"], rows, where)
    return rows


def _check_numbers(rows: dict[str, Array], typed_N: Array, where: Where) -> None:
    half_N, token_N = rows["half"], rows["token_id"]
    _refuse((half_N < 0) | (half_N >= HALVES), half_N, "half", where, "is neither 0 nor 1")
    _refuse(~typed_N & (token_N != -1), token_N, "token_id", where, "must be −1: not one type")
    size_N = rows["vocab_size"]
    outside_N = typed_N & ((token_N < 0) | (token_N >= size_N))
    _refuse(outside_N, token_N, "token_id", where, "is outside the vocabulary")
    _refuse(rows["count"] < 1, rows["count"], "count", where, "is not positive")
    for name in ("norm_sum", "square_sum"):
        bad_N = ~np.isfinite(rows[name]) | (rows[name] < 0)
        _refuse(bad_N, rows[name], name, where, "is not a sum of norms")
    _refuse(size_N < 1, size_N, "vocab_size", where, "is not positive")
    dims_N = rows["sketch_dims"]
    _refuse(dims_N < 0, dims_N, "sketch_dims", where, "is negative")


def _check_vocabulary(size: int | None, rows: dict[str, Array], where: Where) -> None:
    if size is None:
        return
    _refuse(
        rows["vocab_size"] != size,
        rows["vocab_size"],
        "vocab_size",
        where,
        f"is not the log's {size} (run.json): these sums are from another model's logits; use "
        "gradients/ of this run, or move it out of the log",
    )


def _matrix(column: Any, rows: dict[str, Array], where: Where) -> Array:
    """The vectors as (N, W) float32, of finite numbers and of the width that the rows say."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise DataError(f"{where.name}: column vector: type {lists.type}; it must be list<float32>")
    if lists.null_count or lists.flatten().null_count:
        raise DataError(
            f"{where.name}: row group {where.group}, column vector: null or NaN; every number must "
            "be there"
        )
    length_N = np.diff(numpy_view(lists.offsets))
    width_N = np.where(rows["sketch_dims"] > 0, rows["sketch_dims"], rows["vocab_size"])
    _refuse(
        length_N != width_N, length_N, "vector", where, "numbers differ from the width of the row"
    )
    if len(np.unique(width_N)) > 1:
        raise DataError(
            f"{where.name}: row group {where.group}, column vector: rows of different widths; "
            "sums of a row group must agree in vocab_size and sketch_dims"
        )
    if not len(width_N):
        return np.zeros((0, 0), np.float32)
    values_NW = numpy_view(lists.flatten()).reshape(len(lists), -1)
    bad_N = ~np.isfinite(values_NW.sum(axis=1, dtype=np.float64))
    _refuse(
        bad_N, np.full(len(bad_N), "a vector"), "vector", where, "has numbers that are not finite"
    )
    return values_NW.astype(np.float32, copy=False)


def _refuse(bad_N: Array, values_N: Array, name: str, where: Where, why: str) -> None:
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise DataError(f"{where.at(row, name)}: {values_N[row]} {why}")
