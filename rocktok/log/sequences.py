"""Which prompt each sequence belongs to, in 16 bytes a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import rocktok.schema as schema
from rocktok.errors import DataError, LogError
from rocktok.hashing import prompt_hash
from rocktok.log.checks import Where, check_values, to_numpy
from rocktok.log.labels import label_codes, label_column
from rocktok.runs import run_starts

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.log.catalogue import Log
    from rocktok.log.shard import OpenShard

_OWN = 0x5EED5EED5EED5EED  # sets sequences that are their own prompt apart from hashed prompts


@dataclass(frozen=True)
class Prompts:
    """Sequence ids (int64, ascending) and the 64-bit hash of the prompt of each.

    `known` is False where the log has no sequences/ table: each sequence is then its own prompt.
    """

    sequence_S: Array
    prompt_S: Array
    known: bool

    def within(self, low: int | None, high: int | None) -> Prompts:
        """Only the sequences of a range of ids: what a worker needs for one task."""
        start = 0 if low is None else int(np.searchsorted(self.sequence_S, low))
        stop = len(self.sequence_S)
        if high is not None:
            stop = int(np.searchsorted(self.sequence_S, high))
        return Prompts(self.sequence_S[start:stop], self.prompt_S[start:stop], self.known)

    def unlisted(self, sequence_N: Array) -> int:
        """How many of the sequences of some ordered rows the table does not list."""
        if not self.known or len(sequence_N) == 0:
            return 0
        sequence_M = sequence_N[run_starts(sequence_N)]
        return len(sequence_M) - int(np.count_nonzero(self._find(sequence_M)[1]))

    def of(self, sequence_N: Array) -> Array:
        """Prompt hash (uint64) of each row's sequence; an unlisted sequence is its own prompt.

        Looked up once for each run of rows of a sequence.
        """
        starts = run_starts(sequence_N)
        sequence_M = sequence_N[starts]
        prompt_M = sequence_M.astype(np.int64).view(np.uint64) ^ np.uint64(_OWN)
        at_M, listed_M = self._find(sequence_M)
        prompt_M[listed_M] = self.prompt_S[at_M[listed_M]]
        prompt_N: Array = np.repeat(prompt_M, np.diff(starts, append=len(sequence_N)))
        return prompt_N

    def _find(self, sequence_M: Array) -> tuple[Array, Array]:
        """Places in the table, and which of the sequences it lists."""
        if len(self.sequence_S) == 0:
            return np.zeros(len(sequence_M), np.int64), np.zeros(len(sequence_M), dtype=bool)
        at_M = np.searchsorted(self.sequence_S, sequence_M)
        at_M = np.minimum(at_M, len(self.sequence_S) - 1)
        return at_M, self.sequence_S[at_M] == sequence_M


#: Columns of sequences/ that are labels, and whether one may be missing.
_LABELS = {"prompt_id": False, "domain": True}


def cast_sequences(rows: Any, where: Where) -> Any:
    """Rows of sequences/ in the format's own types, unknown columns left out.

    Raises `DataError` for a column that is none of its kind.
    """
    names = [c.name for c in schema.SEQUENCE_COLUMNS if c.name in rows.schema.names]
    required = schema.required_names("sequences")
    wanted = schema.arrow_schema("sequences", [n for n in names if n not in required])
    columns = []
    for field in wanted:
        column = rows[field.name]
        if field.name in _LABELS:
            columns.append(label_column(column, field.name, where, nulls=_LABELS[field.name]))
            continue
        if not field.nullable:
            column = pa.array(to_numpy(column, field.name, where))
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise DataError(
                f"{where.name}: row group {where.group}, column {field.name}: is not "
                f"{field.type} ({str(error).splitlines()[0]})"
            ) from error
    return pa.table(columns, schema=wanted)


def load_domains(log: Log) -> dict[str, Array]:
    """Domain → ascending ids (int64) of its sequences; those without a domain are left out.

    Raises `LogError` if no sequence has one.
    """
    parts: dict[str, list[Array]] = {}
    for shard in log.shards("sequences"):
        opened = log.open(shard, schema.required_names("sequences"))
        if "domain" not in opened.columns:
            continue
        limit = log.limit_of(opened.attempt)
        for group, _ in opened.groups():
            where = Where(opened.name, group)
            table = opened.read_group(group, ["sequence_id", "step", "domain"])
            ids = to_numpy(table["sequence_id"], "sequence_id", where)
            domains, code_N = label_codes(table["domain"], "domain", where, nulls=True)
            if limit is not None:
                code_N = np.where(to_numpy(table["step"], "step", where) >= limit, -1, code_N)
            for code, domain in enumerate(domains):
                if (code_N == code).any():
                    parts.setdefault(domain, []).append(ids[code_N == code])
    if not parts:
        raise LogError(
            f"{log.name}: no sequence has a domain; record it in sequences/ (with TRL: a column "
            "`domain` of the dataset)"
        )
    return {domain: np.sort(np.concatenate(ids)) for domain, ids in sorted(parts.items())}


def load_rows(log: Log, ids: Array) -> dict[int, dict[str, Any]]:
    """Sequence id → its row of sequences/ (all columns that are there), of some sequences."""
    import pyarrow.compute as pc

    by_id: dict[int, dict[str, Any]] = {}
    wanted = pa.array(np.asarray(ids, dtype=np.int64))
    for shard in log.shards("sequences"):
        opened = log.open(shard, schema.required_names("sequences"))
        limit = log.limit_of(opened.attempt)
        for group, _ in opened.groups():
            where = Where(opened.name, group)
            rows = cast_sequences(opened.read_group(group, opened.columns), where)
            rows = rows.filter(pc.is_in(rows["sequence_id"], value_set=wanted))
            for row in rows.to_pylist():
                if limit is None or row["step"] < limit:
                    by_id[row["sequence_id"]] = row
    return by_id


def load_prompts(log: Log) -> Prompts:
    """Read sequences/. Raises `DataError` if a sequence stands in it twice."""
    ids: list[Array] = [np.zeros(0, dtype=np.int64)]
    prompts: list[Array] = [np.zeros(0, dtype=np.uint64)]
    shards = log.shards("sequences")
    for shard in shards:
        opened = log.open(shard, schema.required_names("sequences"))
        for group, _ in opened.groups():
            sequence_N, prompt_N = _read(log, opened, group)
            ids.append(sequence_N)
            prompts.append(prompt_N)
    sequence_S, prompt_S = np.concatenate(ids), np.concatenate(prompts)
    order = np.argsort(sequence_S, kind="stable")
    sequence_S, prompt_S = sequence_S[order], prompt_S[order]
    twice = np.flatnonzero(sequence_S[1:] == sequence_S[:-1])
    if len(twice):
        raise DataError(
            f"{log.place.show('sequences')}: sequence {int(sequence_S[twice[0]])} is listed "
            "twice; keep one row per sequence"
        )
    return Prompts(sequence_S, prompt_S, known=bool(shards))


def _read(log: Log, opened: OpenShard, group: int) -> tuple[Array, Array]:
    where = Where(opened.name, group)
    table = opened.read_group(group, ["sequence_id", "step", "prompt_id"])
    rows = {name: to_numpy(table[name], name, where) for name in ("sequence_id", "step")}
    check_values(rows, log.rules, where)
    labels, code_N = label_codes(table["prompt_id"], "prompt_id", where)
    # Hashing only the distinct prompts: many rollouts share one.
    hash_P = np.array([prompt_hash(label) for label in labels], dtype=np.uint64)
    prompt_N: Array = hash_P[code_N]
    limit = log.limit_of(opened.attempt)
    if limit is None:
        return rows["sequence_id"], prompt_N
    keep = rows["step"] < limit
    return rows["sequence_id"][keep], prompt_N[keep]
