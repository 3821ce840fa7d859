"""The text that is scored again: from a log, or from a Parquet file of sequences.

A token takes 4 bytes, a sequence 24, its `prompt_id` and other facts; while they are read, about
three times that.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import rocktok.schema as schema
from rocktok._types import Array
from rocktok.errors import DataError, LogError
from rocktok.files import local_path
from rocktok.log import open_log
from rocktok.log.checks import Where, to_numpy
from rocktok.log.labels import label_column
from rocktok.log.sequences import cast_sequences
from rocktok.log.shard import sequence_starts
from rocktok.replay.ragged import Ragged, concatenate

if TYPE_CHECKING:
    from rocktok.log import Log

_FILE_COLUMNS = ("sequence_id", "prompt_token_ids", "token_ids")
#: What else sequences/ may say of a text; it is kept.
_FACTS = ("step", "rollout", "domain", "finish_reason", "correct", "on_policy")
#: Rows of a file of sequences that are decoded at once.
_FILE_ROWS = 4_096


@dataclass(frozen=True)
class Texts:
    """S texts by ascending sequence id: prompts, and what was written after them.

    Attributes:
        name: where they come from.
        sequence_S: (S,) int64.
        prompt_id_S: Arrow array of S strings.
        prompts, completions: token ids.
        facts: Arrow table of S rows: `step`, and the other columns of sequences/ that are known.
        vocab: token id → text; None: not known.
        temperature: of the loss.
        notes: what a reader of any result must know.
    """

    name: str
    sequence_S: Array
    prompt_id_S: Any
    prompts: Ragged
    completions: Ragged
    facts: Any
    vocab: dict[int, str] | None = None
    temperature: float = 1.0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sequence_S)

    @property
    def length_S(self) -> Array:
        """(S,) tokens of prompt and completion."""
        return self.prompts.length_S + self.completions.length_S

    @property
    def rows(self) -> int:
        """Completion tokens: the positions that are scored."""
        return len(self.completions.value_T)

    @property
    def digest(self) -> str:
        """Of all ids: texts with the same digest are the same."""
        digest = hashlib.blake2b(digest_size=16)
        for ids in (self.sequence_S, self.prompts.length_S, self.completions.length_S,
                    self.prompts.value_T, self.completions.value_T):  # fmt: skip
            digest.update(np.ascontiguousarray(ids).data)
        return digest.hexdigest()

    def take(self, order_S: Array) -> Texts:
        """Some of the texts, in an order."""
        import pyarrow as pa

        return replace(
            self,
            sequence_S=self.sequence_S[order_S],
            prompt_id_S=self.prompt_id_S.take(pa.array(order_S)),
            prompts=self.prompts.take(order_S),
            completions=self.completions.take(order_S),
            facts=self.facts.take(pa.array(order_S)),
        )


def load_texts(name: str, sequences: int | None = None) -> Texts:
    """The first `sequences` texts (None: all) of a log directory or of a Parquet file.

    A log gives its fixed text, else the rollouts of its last complete step. A file has columns
    `sequence_id`, `prompt_token_ids`, `token_ids`, and those of sequences/ that there are.

    Raises `LogError` for text without prompts, or fewer sequences than asked for.
    """
    path = local_path(name)
    texts = _of_file(path) if path.is_file() else _of_log(open_log(name))
    if sequences is not None and len(texts) < sequences:
        raise LogError(
            f"{name}: has {len(texts):,} whole sequences, {sequences:,} were asked for; ask "
            "for fewer"
        )
    if not len(texts):
        raise LogError(f"{name}: has no whole sequence with its prompt; nothing can be scored")
    order_S = np.argsort(texts.sequence_S, kind="stable")
    twice = np.flatnonzero(np.diff(texts.sequence_S[order_S]) == 0)
    if len(twice):
        sequence = int(texts.sequence_S[order_S][twice[0]])
        raise DataError(f"{name}: sequence {sequence} is listed twice; keep one row per sequence")
    return texts.take(order_S[:sequences])


# -- a file of sequences ---------------------------------------------------------------------


def _of_file(path: Path) -> Texts:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            missing = [name for name in _FILE_COLUMNS if name not in names]
            if missing:
                raise LogError(
                    f"{path}: lacks {', '.join(missing)}; sequences need {', '.join(_FILE_COLUMNS)}"
                )
            wanted = [*_FILE_COLUMNS, *(n for n in ("prompt_id", *_FACTS) if n in names)]
            parts, first = [], 0
            for rows in file.iter_batches(_FILE_ROWS, columns=wanted):
                parts.append(_part(rows, Where(str(path), 0, first)))
                first += rows.num_rows
            if first != file.metadata.num_rows:
                raise pa.ArrowInvalid(f"{first} rows where {file.metadata.num_rows} must be")
    except (OSError, pa.ArrowException) as error:
        line = str(error).splitlines()[0]
        message = f"{path}: cannot be read as Parquet ({line}); give a file of sequences"
        raise LogError(message) from error
    empty = pa.array([], pa.string())
    texts = Texts(
        str(path),
        np.concatenate([np.zeros(0, dtype=np.int64), *(part.sequence_S for part in parts)]),
        pa.concat_arrays([empty, *(part.prompt_id_S for part in parts)]),
        concatenate([part.prompts for part in parts]),
        concatenate([part.completions for part in parts]),
        _joined([part.facts for part in parts]),
    )
    return texts.take(np.flatnonzero(texts.completions.length_S))


def _part(rows: Any, where: Where) -> Texts:
    import pyarrow as pa

    sequences = rows["sequence_id"].cast(pa.int64())
    if sequences.null_count:
        raise pa.ArrowInvalid("a sequence_id is null")
    if "prompt_id" in rows.schema.names:
        prompts = label_column(rows["prompt_id"], "prompt_id", where)
    else:
        prompts = pa.array([f"sequence-{sequence}" for sequence in sequences.to_pylist()])
    return Texts(
        "",
        np.asarray(sequences),
        prompts.cast(pa.string()),
        Ragged.of_lists(rows["prompt_token_ids"]),
        Ragged.of_lists(rows["token_ids"]),
        _facts(pa.Table.from_batches([rows]), where),
    )


def _facts(rows: Any, where: Where) -> Any:
    """The columns `_FACTS` of some rows, in the format's types; `step` 0 where it is not known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [name for name in _FACTS if name in rows.schema.names]
    types = schema.arrow_schema("sequences", _FACTS[1:])
    columns = {
        name: label_column(rows[name], name, where, nulls=True)
        if name == "domain"
        else rows[name].cast(types.field(name).type)
        for name in names
    }
    step = columns.get("step", pa.nulls(len(rows), pa.int32()))
    return pa.table({**columns, "step": pc.fill_null(step, 0)})


def _joined(parts: list[Any]) -> Any:
    """One table of several, null where a part lacks a column."""
    import pyarrow as pa

    empty = pa.table({"step": pa.array([], pa.int32())})
    return pa.concat_tables([empty, *parts], promote_options="default").combine_chunks()


# -- a log -----------------------------------------------------------------------------------


def _of_log(log: Log) -> Texts:
    import pyarrow as pa

    table = "fixed" if log.shards("fixed") else "rollout"
    steps = log.complete_steps(table)
    if not steps:
        raise LogError(f"{log.name}: no step of {table}/ is complete on every rank")
    step = steps[0] if table == "fixed" else steps[-1]
    sequence_S, completions, partial = _completions(log, table, step)
    listed = _prompts(log, np.sort(sequence_S))
    # Where a sequence's prompt stands, and whether it has one.
    at_S = np.searchsorted(listed.sequence_S, sequence_S)
    has_prompt_S = at_S < len(listed)
    has_prompt_S[has_prompt_S] = listed.sequence_S[at_S[has_prompt_S]] == sequence_S[has_prompt_S]
    unlisted = int(np.count_nonzero(~has_prompt_S))
    if unlisted and not has_prompt_S.any():
        raise LogError(
            f"{log.name}: sequences/ has no prompt_token_ids, which the models must be given; "
            "record them, or give a Parquet file of sequences"
        )
    notes = []
    if partial or unlisted:
        notes.append(
            f"{partial:,} sequences with tokens that are not in the log and {unlisted:,} without a "
            "prompt are left out"
        )
    temperature, warmer = _temperature(log)
    return Texts(
        log.name,
        sequence_S[has_prompt_S],
        listed.prompt_id_S.take(pa.array(at_S[has_prompt_S])),
        listed.prompts.take(at_S[has_prompt_S]),
        completions.take(np.flatnonzero(has_prompt_S)),
        listed.facts.take(pa.array(at_S[has_prompt_S])),
        log.vocab.texts or None,
        temperature,
        (*notes, *warmer),
    )


def _temperature(log: Log) -> tuple[float, list[str]]:
    """That of the log's student, and what to note where its teacher had another."""
    loss = (log.run or {}).get("loss") or {}
    student = float(loss.get("student_temperature") or 1.0)
    teacher = float(loss.get("teacher_temperature") or student)
    if teacher == student:
        return student, []
    return student, [
        f"{log.name}: its student had temperature {student:g}, its teacher {teacher:g}; both are "
        f"scored at {student:g}"
    ]


def _completions(log: Log, table: str, step: int) -> tuple[Array, Ragged, int]:
    """Ids and tokens of the whole sequences of a step, and how many have gaps."""
    ids: list[Array] = [np.zeros(0, dtype=np.int64)]
    parts, partial = [], 0
    for part in log.scan(table, ["token_id"], steps=[step]):
        rows = part.columns
        start_S = sequence_starts(rows["step"], rows["sequence_id"])
        length_S = np.diff(np.append(start_S, len(part)))
        # In a whole sequence every position is the row's number within it.
        off_N = rows["position"] != np.arange(len(part)) - np.repeat(start_S, length_S)
        whole_S = ~np.logical_or.reduceat(off_N, start_S)
        partial += int(np.count_nonzero(~whole_S))
        ids.append(rows["sequence_id"][start_S[whole_S]])
        keep_N = np.repeat(whole_S, length_S)
        parts.append(Ragged.of(rows["token_id"][keep_N], length_S[whole_S]))
    return np.concatenate(ids), concatenate(parts), partial


def _prompts(log: Log, wanted_S: Array) -> Texts:
    """Prompts of some sequences (ids ascending), without completions; those that are not empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids: list[Array] = [np.zeros(0, dtype=np.int64)]
    names: list[Any] = [pa.array([], pa.string())]
    parts: list[Ragged] = []
    facts: list[Any] = []
    for shard in log.shards("sequences"):
        opened = log.open(shard, schema.required_names("sequences"))
        if "prompt_token_ids" not in opened.columns:
            continue
        limit = log.limit_of(opened.attempt)
        for group, _ in opened.groups():
            where = Where(opened.name, group)
            rows = cast_sequences(opened.read_group(group, opened.columns), where)
            keep_S = np.isin(to_numpy(rows["sequence_id"], "sequence_id", where), wanted_S)
            if limit is not None:
                keep_S &= to_numpy(rows["step"], "step", where) < limit
            length_S = pc.fill_null(pc.list_value_length(rows["prompt_token_ids"]), 0)
            keep_S &= np.asarray(length_S) > 0
            rows = rows.filter(pa.array(keep_S)).combine_chunks()
            ids.append(to_numpy(rows["sequence_id"], "sequence_id", where))
            names += rows["prompt_id"].chunks
            facts.append(_facts(rows, where))
            parts += [Ragged.of_lists(chunk) for chunk in rows["prompt_token_ids"].chunks]
    sequence_S = np.concatenate(ids)
    order_S = np.argsort(sequence_S, kind="stable")
    nothing = Ragged.of(np.zeros(0), np.zeros(len(sequence_S)))
    ids_S = pa.concat_arrays(names)
    texts = Texts(log.name, sequence_S, ids_S, concatenate(parts), nothing, _joined(facts))
    return texts.take(order_S)
