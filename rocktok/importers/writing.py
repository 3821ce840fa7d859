"""Sequences into a log, or into a file of sequences."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rocktok.errors import DataError, LogError, RocktokError
from rocktok.files import Place, open_output, place
from rocktok.importers.source import check_step
from rocktok.importers.standing import KEY, Standing, standing
from rocktok.log import LogWriter
from rocktok.log.resume import only_writer
from rocktok.log.run import PATH as RUN

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.importers.source import Part, Source, Text, TextSource

#: Rows after which a shard is published.
SHARD_ROWS = 1 << 20
#: Texts of a row group.
_GROUP_TEXTS = 4_096
#: Texts after which progress is told.
_TOLD_TEXTS = 64


@dataclass
class Written:
    """What was written: `sequences` and `rows` now, `kept_rows` before, all `steps`."""

    sequences: int = 0
    rows: int = 0
    kept_rows: int = 0
    steps: set[int] = field(default_factory=set)


def write_log(
    source: Source,
    output: str,
    identity: dict[str, Any],
    vocab: list[tuple[int, str, bytes]] | None,
    progress: Callable[[int, None], None] | None = None,
) -> Written:
    """Write a log, or the rest of one that an earlier start has left.

    An import that finds bad input leaves nothing behind, unless an earlier start had.

    Raises:
        UsageError: the output exists.
        LogError: bad input, with the file that has it.
    """
    where = place(output)
    stands = standing(where, identity, source.table)
    parts = source.parts()
    first = next(parts, None)
    if first is None:
        raise LogError(f"{identity['kind']}: the files hold no scored token; nothing is imported")
    known = None if vocab is None else {row[0] for row in vocab}
    parts = (_with_known_ids(part, known) for part in chain([first], parts))
    done = Written(kept_rows=stands.rows, steps=set(stands.steps))
    was_there = where.exists()
    with where.asking(), only_writer(where):
        if where.exists(RUN) != (stands.manifest is not None):
            raise LogError(f"{output}: another process has just written to it; start again")
        with (
            _nothing_left(where, stands, was_there),
            _writer(source, where, stands, identity, vocab) as writer,
        ):
            _write_parts(writer, source.table, parts, stands, done, progress)
    return done


def _with_known_ids(part: Part, known: set[int] | None) -> Part:
    """The part. Raises `LogError` for a token that the tokenizer does not have."""
    if known is not None:
        for token in np.unique(np.asarray(part.rows["token_id"])).tolist():
            if token not in known:
                raise LogError(
                    f"{part.name}: token_id {token} is unknown to the tokenizer: ids of another "
                    "tokenizer; give the files' own"
                )
    return part


def _write_parts(
    writer: LogWriter,
    table: str,
    parts: Iterator[Part],
    stands: Standing,
    done: Written,
    progress: Callable[[int, None], None] | None,
) -> None:
    listed, unpublished = stands.listed, 0
    for part in parts:
        done.steps.add(part.step)
        if part.step in stands.steps:
            continue
        rows = _without(part.rows, stands.sequences.get(part.step))
        sequences = _without(part.sequences, listed)
        if table == "fixed":
            # The same texts come again at each step; their row of sequences/ does not.
            listed = np.union1d(listed, np.asarray(sequences["sequence_id"], dtype=np.int64))
        try:
            if len(sequences["sequence_id"]):
                writer.write({"step": part.step, **sequences}, table="sequences")
            if len(rows["sequence_id"]):
                writer.write({"step": part.step, **rows}, table=table)
        except DataError as error:
            raise LogError(f"{part.name}: {error}") from error
        done.sequences += len(np.unique(np.asarray(rows["sequence_id"], dtype=np.int64)))
        done.rows += len(rows["sequence_id"])
        unpublished += len(rows["sequence_id"])
        if progress is not None:
            progress(done.rows, None)
        if unpublished >= SHARD_ROWS:
            writer.flush(whole=True)
            unpublished = 0


def _without(columns: Mapping[str, Any], id_S: Array | None) -> Mapping[str, Any]:
    """Columns without the rows of some sequences."""
    if id_S is None or not len(id_S):
        return columns
    keep_N = ~np.isin(np.asarray(columns["sequence_id"], dtype=np.int64), id_S)
    if keep_N.all():
        return columns
    rows = np.flatnonzero(keep_N)
    return {
        key: values[keep_N] if isinstance(values, np.ndarray) else [values[i] for i in rows]
        for key, values in columns.items()
    }


def _writer(
    source: Source,
    where: Place,
    stands: Standing,
    identity: dict[str, Any],
    vocab: list[tuple[int, str, bytes]] | None,
) -> LogWriter:
    if stands.manifest is None:
        run = {**source.run, "extra": {KEY: identity, **source.extra}}
        return LogWriter(where.name, columns=source.columns, run=run, vocab=vocab)
    if set(stands.columns) != set(source.columns):
        raise LogError(f"{where.name}: has other columns than the files; give another output")
    return LogWriter(
        where.name,
        columns=source.columns,
        attempt=stands.manifest.attempt,
        run_id=stands.run_id,
        manifest=stands.manifest,
    )


@contextmanager
def _nothing_left(where: Place, stands: Standing, was_there: bool) -> Iterator[None]:
    """Remove a log that was begun here, where the input turns out to be bad."""
    path = Path(where.path)
    try:
        yield
    except RocktokError:
        if where.is_local and stands.manifest is None:
            for one in list(path.iterdir()) if was_there else [path]:
                if one.is_dir():
                    shutil.rmtree(one, ignore_errors=True)
                else:
                    one.unlink(missing_ok=True)
        raise


_TYPES = {"bool": pa.bool_(), "string": pa.string(), "floats": pa.list_(pa.float32())}


def write_texts(
    source: TextSource, output: str, progress: Callable[[int, None], None] | None = None
) -> Written:
    """Write a Parquet file of sequences, which `rescore` takes as `text`.

    Raises `UsageError` for an output that exists, `LogError` for bad input and for no text.
    """
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field("sequence_id", pa.int64(), nullable=False),
            pa.field("step", pa.int32(), nullable=False),
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
            pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
            *(pa.field(name, _TYPES[kind]) for name, kind in source.extra.items()),
        ]
    )
    texts = source.texts()
    first = next(texts, None)
    if first is None:
        raise LogError("the files hold no completion; nothing is imported")
    done, held = Written(), list[dict[str, Any]]()
    with (
        open_output(output) as file,
        pq.ParquetWriter(file, schema, write_page_checksum=True) as writer,
    ):
        for text in chain([first], texts):
            check_step(text.step, f"prompt {text.prompt_id}")
            held.append(_row(done.sequences, text))
            done.sequences += 1
            done.rows += len(text.completion)
            done.steps.add(text.step)
            if progress is not None and not done.sequences % _TOLD_TEXTS:
                progress(done.rows, None)
            if len(held) >= _GROUP_TEXTS:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held.clear()
        writer.write_table(pa.Table.from_pylist(held, schema=schema))
    return done


def _row(number: int, text: Text) -> dict[str, Any]:
    return {
        "sequence_id": number,
        "step": text.step,
        "prompt_id": text.prompt_id,
        "prompt_token_ids": text.prompt,
        "token_ids": text.completion,
        **text.facts,
    }
