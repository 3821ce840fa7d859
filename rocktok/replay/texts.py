"""The text that is scored again: from a log, or from a Parquet file of sequences."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rocktok.errors import LogError
from rocktok.log import open_log

if TYPE_CHECKING:
    from rocktok.log import Log

Array = npt.NDArray[Any]

_FILE_COLUMNS = ("sequence_id", "prompt_token_ids", "token_ids")


@dataclass(frozen=True)
class Text:
    """A prompt and what was written after it, as token ids."""

    sequence_id: int
    prompt_id: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)


@dataclass(frozen=True)
class Texts:
    """All texts, where they come from, the vocabulary's texts (None: not known), and notes."""

    texts: tuple[Text, ...]
    name: str
    vocab: dict[int, str] | None
    temperature: float
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of all ids: texts with the same digest are the same."""
        found = hashlib.blake2b(digest_size=16)
        for text in self.texts:
            for ids in ((text.sequence_id,), text.prompt_ids, text.token_ids):
                found.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
        return found.hexdigest()


def load_texts(name: str, sequences: int | None = None) -> Texts:
    """The first `sequences` texts (None: all) of a log directory or of a Parquet file.

    A log gives its fixed text, else the rollouts of its last complete step. A file has columns
    `sequence_id`, `prompt_token_ids`, `token_ids`, and `prompt_id` if there is one.

    Raises `LogError` for text without prompts, or fewer sequences than asked for.
    """
    found = _of_file(Path(name)) if Path(name).is_file() else _of_log(open_log(name))
    if sequences is not None and len(found.texts) < sequences:
        raise LogError(
            f"{name}: has {len(found.texts):,} whole sequences, {sequences:,} were asked for; ask "
            "for fewer"
        )
    if not found.texts:
        raise LogError(f"{name}: has no whole sequence with its prompt; nothing can be scored")
    return Texts(found.texts[:sequences], found.name, found.vocab, found.temperature, found.notes)


def _of_file(path: Path) -> Texts:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        line = str(error).splitlines()[0]
        message = f"{path}: cannot be read as Parquet ({line}); give a file of sequences"
        raise LogError(message) from error
    missing = [name for name in _FILE_COLUMNS if name not in table.column_names]
    if missing:
        raise LogError(
            f"{path}: lacks {', '.join(missing)}; sequences need {', '.join(_FILE_COLUMNS)}"
        )
    rows = table.sort_by("sequence_id").to_pylist()
    texts = [_text(row, row["token_ids"]) for row in rows if row["token_ids"]]
    return Texts(tuple(texts), str(path), None, 1.0, ())


def _text(row: dict[str, Any], token_ids: Any) -> Text:
    sequence = int(row["sequence_id"])
    prompt_id = str(row.get("prompt_id") or f"sequence-{sequence}")
    prompt = tuple(int(v) for v in row["prompt_token_ids"] or ())
    return Text(sequence, prompt_id, prompt, tuple(int(v) for v in token_ids))


def _of_log(log: Log) -> Texts:
    table = "fixed" if log.shards("fixed") else "rollout"
    steps = log.complete_steps(table)
    if not steps:
        raise LogError(f"{log.name}: no step of {table}/ is complete on every rank")
    listed = {int(row["sequence_id"]): row for row in _sequences(log)}
    step = steps[0] if table == "fixed" else steps[-1]
    texts, partial, unlisted = [], 0, 0
    for batch in log.scan(table, ["token_id"], steps=[step]):
        ids, starts = np.unique(batch.columns["sequence_id"], return_index=True)
        stops = np.append(starts[1:], len(batch))
        for sequence, start, stop in zip(ids.tolist(), starts, stops, strict=True):
            row = listed.get(sequence)
            position = batch.columns["position"][start:stop]
            if row is None or not row.get("prompt_token_ids"):
                unlisted += 1
            elif not np.array_equal(position, np.arange(stop - start)):
                partial += 1
            else:
                texts.append(_text(row, batch.columns["token_id"][start:stop].tolist()))
    if not texts and unlisted:
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
    vocab = log.vocab.texts or None
    run: dict[str, Any] = log.run or {}
    temperature = float((run.get("loss") or {}).get("student_temperature") or 1.0)
    return Texts(tuple(texts), log.name, vocab, temperature, tuple(notes))


def _sequences(log: Log) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for shard in log.shards("sequences"):
        with log.place.filesystem.open_input_file(log.place.join(shard.path)) as file:
            rows += pq.read_table(file).to_pylist()
    return rows
