"""A smaller log of the same run: fewer steps of rollouts, fewer alternatives, fewer columns.

Whatever is kept is kept as it is: values are neither rounded nor recomputed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rocktok
from rocktok import schema
from rocktok.log import Log, LogWriter, vocab

#: Columns that others give: log_ratio is a difference of two, and head_grad_norm is read by no
#: analysis that grad_norm does not serve.
IMPLIED = ("log_ratio", "head_grad_norm")


@dataclass(frozen=True)
class Extract:
    """What of a log is kept, beside the vocabulary.

    Attributes:
        rollouts_every: recorded steps of rollouts are kept whose number this divides.
        without: optional columns that are left out.
        alternatives: how many of the likeliest tokens are kept of each model.
        positions: kept texts are taken, in order, until they hold so many; None: all of them.
    """

    rollouts_every: int
    without: tuple[str, ...]
    alternatives: int
    positions: int | None = None


#: From the most to the least.
EXTRACTS = (
    Extract(10, (), 5),
    Extract(10, IMPLIED, 5),
    Extract(20, IMPLIED, 5, 40_000),
    Extract(20, (*IMPLIED, "forward_kl"), 3, 40_000),
    Extract(40, (*IMPLIED, "forward_kl", "student_mass", "teacher_mass"), 3, 40_000),
)


def slim(source: Path, target: Path, limit: int) -> Extract:
    """Write the largest extract of a log that takes no more than ``limit`` bytes; says which.

    Raises `click.ClickException` if even the smallest takes more.
    """
    for extract in EXTRACTS:
        shutil.rmtree(target, ignore_errors=True)
        write_extract(rocktok.open(source), target, extract)
        size = size_of(target)
        click.echo(f"{extract}: {size / 1e6:.2f} MB")
        if size <= limit:
            return extract
    raise click.ClickException(
        f"{target}: takes {size / 1e6:.1f} MB at the least, {limit / 1e6:.1f} MB are allowed; keep "
        "fewer texts"
    )


def write_extract(log: Log, target: Path, extract: Extract) -> None:
    """Write a part of a log: alternatives at the first and the last step, contexts whole."""
    columns = [
        name
        for name in log.columns("fixed")
        if name in schema.OPTIONAL_STATISTICS and name not in extract.without
    ]
    steps = {table: log.complete_steps(table) for table in schema.STEP_TABLES}
    steps["rollout"] = [step for step in steps["rollout"] if step % extract.rollouts_every == 0]
    steps["alternatives"] = sorted({*steps["alternatives"][:1], *steps["alternatives"][-1:]})
    texts = kept_texts(log, steps["fixed"][0], extract.positions)
    identity = {name: value for name, value in (log.run or {}).items() if name != "run_id"}
    identity |= {"every": extract.rollouts_every, "fixed_sequences": len(texts)}
    with LogWriter(
        target, columns=columns, run=identity, vocab=vocabulary(log), flush_bytes=1 << 30
    ) as writer:
        wanted = set(texts.tolist())
        for table in (*schema.OCCURRENCE_TABLES, *schema.BESIDE_FIXED):
            for step in steps[table]:
                for rows in read(log, table, step, columns):
                    if table == "rollout":
                        wanted |= set(np.unique(rows["sequence_id"]).tolist())
                    else:
                        listed_N = np.isin(rows["sequence_id"], texts)
                        rows = {name: values[listed_N] for name, values in rows.items()}
                    writer.write(cut(rows, extract.alternatives), table=table)
                writer.finish_step(step, table)
        for rows in sequences(log, wanted):
            writer.write(rows, table="sequences")


def kept_texts(log: Log, step: int, positions: int | None) -> Any:
    """Ids of the first kept texts that hold so many positions, or of all, ascending."""
    parts = [part.columns["sequence_id"] for part in log.scan("fixed", ["sequence_id"], [step])]
    id_S, count_S = np.unique(np.concatenate(parts), return_counts=True)
    if positions is None:
        return id_S
    return id_S[: int(np.searchsorted(np.cumsum(count_S), positions)) + 1]


def read(log: Log, table: str, step: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a step of a table, with all that the table requires."""
    names = list(schema.required_names(table))
    if table in schema.OCCURRENCE_TABLES:
        names += columns
    for part in log.scan(table, names, [step]):
        yield {name: part.columns[name] for name in names}


def cut(rows: dict[str, Any], alternatives: int) -> dict[str, Any]:
    """The same rows with so many of the likeliest tokens, where they hold any."""
    return {
        name: values[:, :alternatives] if name.endswith(("_ids", "_probs")) else values
        for name, values in rows.items()
    }


def sequences(log: Log, wanted: set[int]) -> Iterator[dict[str, Any]]:
    """The rows of sequences/ of these sequences."""
    for shard in log.shards("sequences"):
        opened = log.open(shard)
        for group, _ in opened.groups():
            rows = opened.read_group(group, opened.columns)
            kept = np.isin(np.asarray(rows["sequence_id"]), np.fromiter(wanted, np.int64))
            part = rows.filter(pa.array(kept))
            if part.num_rows:
                yield part.to_pydict()


def vocabulary(log: Log) -> list[tuple[int, str, bytes]]:
    """The rows of vocab.parquet."""
    table = pq.read_table(pa.BufferReader(log.place.read(vocab.PATH)))
    return [tuple(row.values()) for row in table.to_pylist()]


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
