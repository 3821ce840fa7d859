"""`alternatives/` and `contexts/` beside `fixed/`: whether its positions are theirs.

Shape suffixes: N rows, S sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rocktok.errors import DataError
from rocktok.log.selection import EVERYWHERE, KEY, Span
from rocktok.log.shard import sequence_starts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rocktok._types import Array
    from rocktok.log.catalogue import Log
    from rocktok.log.reader import Reader, ShardRows
    from rocktok.log.shard import Shard


@dataclass(frozen=True)
class Positions:
    """How many positions of each sequence there are; ids ascending, each once."""

    sequence_S: Array
    count_S: Array

    @classmethod
    def of(cls, sequences: Iterable[Array]) -> Positions:
        """Counted over the sequence ids of rows; those of a sequence stand together."""
        ids, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for sequence_N in sequences:
            start_S = sequence_starts(np.zeros_like(sequence_N), sequence_N)
            ids.append(sequence_N[start_S].astype(np.int64))
            counts.append(np.diff(start_S, append=len(sequence_N)))
        sequence_S, at_S = np.unique(np.concatenate(ids), return_inverse=True)
        # In integers: weights of bincount are floats.
        count_S = np.zeros(len(sequence_S), np.int64)
        np.add.at(count_S, at_S, np.concatenate(counts))
        return cls(sequence_S, count_S)

    def counts_of(self, sequence_S: Array) -> Array:
        """(S,) positions of some sequences; 0 for one that is not here."""
        if len(self.sequence_S) == 0:
            return np.zeros(len(sequence_S), np.int64)
        at_S = np.searchsorted(self.sequence_S, sequence_S)
        at_S = np.minimum(at_S, len(self.sequence_S) - 1)
        count_S: Array = np.where(self.sequence_S[at_S] == sequence_S, self.count_S[at_S], 0)
        return count_S


def positions_of(log: Log, table: str, step: int | None = None) -> Positions:
    """The positions of a table, at one step or at all. Reads sequence ids alone."""
    steps = None if step is None else [step]
    return Positions.of(
        rows.columns["sequence_id"]
        for shard in log.shards(table)
        for rows in log.reader.scan_shard(shard, ["sequence_id"], steps)
    )


def check_positions(
    reader: Reader,
    table: str,
    step: int,
    shards: Sequence[Shard],
    fixed: Sequence[Shard],
    span: Span = EVERYWHERE,
) -> None:
    """Raise `DataError` for a row of a step, in a span of ids, whose position `fixed/` lacks.

    Args:
        reader: of the log.
        table: which of the tables beside `fixed`.
        step, span: which rows.
        shards, fixed: shards that hold the step, of the table and of `fixed`.
    """
    sequence_N, position_N = _keys(reader, step, fixed, span)
    sequence_S = np.unique(sequence_N)
    for shard in shards:
        for rows in reader.scan_shard(shard, KEY, [step], None, span):
            _refuse_unknown(rows, table, sequence_S, sequence_N, position_N)


def _keys(reader: Reader, step: int, shards: Sequence[Shard], span: Span) -> tuple[Array, Array]:
    parts = [
        (rows.columns["sequence_id"], rows.columns["position"])
        for shard in shards
        for rows in reader.scan_shard(shard, KEY, [step], None, span)
    ]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int32)
    sequence_N, position_N = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return sequence_N, position_N


def _refuse_unknown(
    rows: ShardRows, table: str, sequence_S: Array, sequence_N: Array, position_N: Array
) -> None:
    """`sequence_S`: the distinct ones of `sequence_N`, ascending."""
    step_M, sequence_M, position_M = (rows.columns[name] for name in KEY)
    at_M = np.searchsorted(sequence_S, sequence_M)
    known_M = np.zeros(len(rows), dtype=bool)
    if len(sequence_S):
        at_M = np.minimum(at_M, len(sequence_S) - 1)
        # One number for sequence and position: below 2**63, as positions are below 2**31.
        width = 1 + max(int(position_N.max()), int(position_M.max()))
        key_N = np.searchsorted(sequence_S, sequence_N) * width + position_N
        known_M = sequence_S[at_M] == sequence_M
        known_M &= np.isin(at_M * width + position_M, key_N)
    if not known_M.all():
        row = int(np.argmin(known_M))
        raise DataError(
            f"{rows.name}: sequence {sequence_M[row]}, position {position_M[row]} at step "
            f"{step_M[row]} is not in fixed/; rows of {table}/ must be positions that fixed/ has "
            "at the same step"
        )
