"""A small log out of a large one: chosen steps, texts and columns, values with fewer digits.

Whatever is kept stays what it was but for digits that no reader sees: with `bits` of its mantissa a
float differs by at most one part in 2^(bits + 1), and takes 1.2 to 2 bytes instead of 3.4. The run
stays the same run (run_id, models, when it was recorded); `extra.extract` of
run.json says what was left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from smol_slim import cut, read, sequences, vocabulary

from rocktok import schema
from rocktok.log import Log, LogWriter
from rocktok.log import run as runs
from rocktok.log.manifest import dump_json

#: Bits of the mantissa of a float32.
MANTISSA = 23


@dataclass(frozen=True)
class Extract:
    """What of a log is kept.

    Attributes:
        steps: table → steps that are kept; a table that is not named is left out.
        columns: optional columns of rollout/ and fixed/ that are kept.
        bits: column, or "table.column", which comes first → bits of the mantissa that are kept;
            a column that is not named keeps all.
        texts: how many texts of fixed/ are kept, the first by their ids; None: all.
        alternatives: how many of each model's likeliest tokens are kept.
        prompts: whether the token ids of prompts are kept.
        used: whether the vocabulary keeps only the tokens that stand in what is kept.
    """

    steps: Mapping[str, tuple[int, ...]]
    columns: tuple[str, ...]
    bits: Mapping[str, int] = field(default_factory=dict)
    texts: int | None = None
    alternatives: int = schema.ALTERNATIVES
    prompts: bool = True
    used: bool = False

    def bits_of(self, table: str, column: str) -> int:
        """Bits of the mantissa that a column keeps."""
        return self.bits.get(f"{table}.{column}", self.bits.get(column, MANTISSA))


def sample(log: Log) -> Extract:
    """What is kept of the log that `make.py` records: all rows, losses to the last digit.

    The vectors of the gradients, three tenths of it, at the first and the last step alone.
    """
    columns = tuple(name for name in log.columns("fixed") if name in schema.OPTIONAL_STATISTICS)
    steps = {table: tuple(log.complete_steps(table)) for table in schema.STEP_TABLES}
    steps["gradients"] = tuple(sorted({*steps["gradients"][:1], *steps["gradients"][-1:]}))
    bits = {"vector": 10, **dict.fromkeys(columns, 10)}
    bits |= {f"rollout.{name}": 7 for name in columns}
    return Extract({table: kept for table, kept in steps.items() if kept}, columns, bits)


def text_ids(log: Log) -> Any:
    """Ids of the texts of fixed/, ascending."""
    step = log.complete_steps("fixed")[0]
    parts = [part.columns["sequence_id"] for part in log.scan("fixed", ["sequence_id"], [step])]
    return np.unique(np.concatenate(parts))


def write(log: Log, target: Path, extract: Extract) -> int:
    """Write what `extract` keeps of a log to a new directory; returns its bytes."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / runs.PATH).write_bytes(dump_json(_identity(log, extract)))
    texts = text_ids(log)[: extract.texts]
    used: set[int] = set()
    rows = {table: list(_rows(log, table, extract, texts, used)) for table in extract.steps}
    kept = {int(id_) for parts in rows.values() for part in parts
            for id_ in np.unique(part.get("sequence_id", np.zeros(0, np.int64)))}  # fmt: skip
    described = [_described(part, extract, used) for part in sequences(log, kept)]
    tokens = [row for row in vocabulary(log) if not extract.used or row[0] in used]
    with LogWriter(
        target, columns=extract.columns, vocab=tokens or None, flush_bytes=1 << 40, small=True
    ) as writer:
        for part in described:
            writer.write(part, table="sequences")
        for table in schema.STEP_TABLES:
            for part in rows.get(table, ()):
                writer.write(part, table=table)
            for step in extract.steps.get(table, ()):
                writer.finish_step(step, table)
    return size_of(target)


def _identity(log: Log, extract: Extract) -> dict[str, Any]:
    """run.json: as it was, with the number of texts, and what the extract left out."""
    run = {name: value for name, value in (log.run or {}).items() if name != "crc32"}
    if extract.texts is not None:
        run["fixed_sequences"] = min(extract.texts, len(text_ids(log)))
    if extract.used and len(log.vocab):
        run["tokens"] = run.get("tokens", len(log.vocab))
    left = {
        table: [
            step for step in log.complete_steps(table) if step not in extract.steps.get(table, ())
        ]
        for table in schema.STEP_TABLES
    }
    columns = [
        name
        for name in log.columns("fixed")
        if name in schema.OPTIONAL_STATISTICS and name not in extract.columns
    ]
    extra = run.get("extra") or {}
    # Of an extract of an extract both say what the whole log had.
    earlier = extra.get("extract") or {"steps_left_out": {}, "columns_left_out": []}
    for table, steps in earlier["steps_left_out"].items():
        left[table] = sorted({*steps, *left[table]})
    said = {
        "steps_left_out": {table: steps for table, steps in left.items() if steps},
        "columns_left_out": [*earlier["columns_left_out"], *columns],
        "mantissa_bits": dict(extract.bits),
    }
    run["extra"] = {**extra, "extract": said}
    return run


def _rows(
    log: Log, table: str, extract: Extract, texts: Any, used: set[int]
) -> Iterator[dict[str, Any]]:
    """The rows of a table that are kept, a step at a time; adds their tokens to `used`."""
    columns = list(extract.columns)
    for step in extract.steps[table]:
        parts = _gradients(log, step) if table == "gradients" else read(log, table, step, columns)
        for rows in parts:
            if table in ("fixed", *schema.BESIDE_FIXED):
                listed_N = np.isin(rows["sequence_id"], texts)
                rows = {name: values[listed_N] for name, values in rows.items()}
            rows = cut(rows, extract.alternatives)
            for name, values in rows.items():
                if name.endswith(("token_id", "_ids")):
                    used |= set(np.unique(values).tolist())
            yield {
                name: rounded(values, extract.bits_of(table, name)) for name, values in rows.items()
            }


def _gradients(log: Log, step: int) -> Iterator[dict[str, Any]]:
    """The rows of gradients/ at a step, vectors as a matrix."""
    names = schema.required_names("gradients")
    for shard, _ in log.holders("gradients", step):
        opened = log.open(shard)
        for group, _ in opened.groups():
            rows = opened.read_group(group, names)
            here_N = np.asarray(rows["step"]) == step
            if not here_N.any():
                continue
            rows = rows.filter(here_N)
            yield {
                name: np.stack(rows[name].to_numpy()) if name == "vector" else rows[name].to_numpy()
                for name in names
            }


def _described(rows: dict[str, Any], extract: Extract, used: set[int]) -> dict[str, Any]:
    """Rows of sequences/, without the prompts unless they are kept."""
    if not extract.prompts:
        return {name: values for name, values in rows.items() if name != "prompt_token_ids"}
    for prompt in rows.get("prompt_token_ids", ()):
        used |= set(prompt or ())
    return rows


def rounded(values: Any, bits: int) -> Any:
    """float32 with so many bits of the mantissa, ties to even; other types as they are."""
    if values.dtype != np.float32 or bits >= MANTISSA:
        return values
    dropped = MANTISSA - bits
    bits_N = values.view(np.uint32)
    half = np.uint32((1 << (dropped - 1)) - 1) + ((bits_N >> dropped) & np.uint32(1))
    return (((bits_N + half) >> dropped) << dropped).view(np.float32)


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
