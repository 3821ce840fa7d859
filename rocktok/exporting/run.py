"""`export`: tables of a log as files that other tools read, streamed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import rocktok.schema as schema
from rocktok._version import __version__
from rocktok.directories import check_directory, make_directory
from rocktok.errors import LogError, UsageError, printable
from rocktok.exporting.card import ExportedTable, card, main_table, meaning_of
from rocktok.files import local_path
from rocktok.log.catalogue import Log
from rocktok.log.opening import open_log
from rocktok.log.ordered import ordered_rows, stored_columns
from rocktok.log.sequences import load_prompts
from rocktok.publishing import write_synced

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int], None]

SCHEMA = "rocktok.export/1"
#: The file that says what the others are, and whose folder may be replaced.
MARKER = "export.json"

FORMATS = ("datasets", "csv", "jsonl", "arrow")
#: What can be exported: the tables of a log, and the texts of its token ids.
TABLES = (*schema.TABLES, "vocab")

#: What an exported folder holds.
_OWN = (MARKER, "README.md", *(f"{name}/*.parquet" for name in TABLES),
        *(f"{name}.{form}" for name in TABLES for form in FORMATS[1:]))  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        output: the folder.
        format: one of `FORMATS`.
        tables: each with its columns, rows and files.
        notes: what a reader of the files must know.
    """

    SCHEMA: ClassVar[str] = SCHEMA

    output: str
    format: str
    tables: tuple[ExportedTable, ...]
    notes: tuple[str, ...]

    def answer(self) -> list[str]:
        """What was written, and how to read it."""
        rows = ", ".join(f"{one.name} ({one.rows:,} rows)" for one in self.tables)
        files = sum(len(one.files) for one in self.tables)
        main = main_table(self.tables)
        folder = json.dumps(self.output, ensure_ascii=False)
        file = json.dumps(f"{self.output}/{main.files[0]}", ensure_ascii=False)
        read = {
            "datasets": f'load_dataset({folder}, "{main.name}", split="train")',
            "csv": f"pandas.read_csv({file})",
            "jsonl": f"pandas.read_json({file}, lines=True)",
            "arrow": f"polars.read_ipc({file})",
        }[self.format]
        return [
            f"Every current row was read, checked and written: {rows} in {files:,} "
            f"{'file' if files == 1 else 'files'}.",
            f"To read {main.name} in Python: {read}",
        ]

    def to_json(self) -> str:
        """JSON of the schema and every field."""
        content = {"schema": self.SCHEMA, **asdict(self)}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def __repr__(self) -> str:
        lines = [*self.answer(), self.output, *(f"note: {note}" for note in self.notes)]
        return "\n".join(map(printable, lines))


def export(
    log: Log | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: str = "datasets",
    tables: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    text: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write tables of a log into a folder, as files that other tools read.

    The same rows give the same bytes. Memory: about a million rows of the columns that are written,
    or one step of a table whose shards are interleaved; of `gradients` one step.

    Args:
        log: an open log, or what `rocktok.open` takes.
        output: the folder.
        to: `datasets`: Parquet files and a README.md that the Hugging Face Hub and
            `datasets.load_dataset` read; `csv`, `jsonl`, `arrow`: one file per table, named
            `<table>.csv` and so on. The folder also has export.json, which says what it holds.
        tables: of `TABLES`; None: all that the log has.
        columns: optional columns to write; those that a table needs come with them. None: all.
        steps: of the rows; None: all. Of `sequences` and `vocab` all rows are written.
        text: whether tables with token_id get a column `token`, its text.
        force: whether an earlier export is replaced.
        progress: told of (rows done, all rows).

    Raises:
        UsageError: options that contradict each other or the log, or `output` exists.
        LogError: the log is damaged, or the output cannot be written.
    """
    opened = log if isinstance(log, Log) else open_log(log)
    plan = _Plan.of(opened, to, tables, columns, steps, text)
    path = local_path(output)
    target = check_directory(
        path, force=force, own=_OWN, marker=MARKER, schema="rocktok.export/",
        inputs=[opened.name], what="an export",
    )  # fmt: skip
    written: list[ExportedTable] = []
    make_directory(target, lambda folder: written.extend(_fill(plan, folder, progress)),
                   marker=MARKER)  # fmt: skip
    return Exported(os.fspath(output), to, tuple(written), plan.notes)


@dataclass(frozen=True)
class _Plan:
    """What is written of a log, checked."""

    log: Log
    to: str
    tables: tuple[str, ...]
    columns: frozenset[str] | None
    steps: frozenset[int] | None
    text: bool
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        log: Log,
        to: str,
        tables: Sequence[str] | None,
        columns: Sequence[str] | None,
        steps: Sequence[int] | None,
        text: bool,
    ) -> _Plan:
        """Raises `UsageError` for what no log has, `LogError` for what this one lacks."""
        if to not in FORMATS:
            raise UsageError(f"to is {to!r}; choose from {', '.join(FORMATS)}", parameter="to")
        there = (*log.tables(), *(("vocab",) if len(log.vocab) else ()))
        for name in tables or ():
            if name not in TABLES:
                raise UsageError(
                    f"table is {name!r}; choose from {', '.join(TABLES)}", parameter="table"
                )
            if name not in there:
                raise LogError(f"{log.name}: has no {name}; it has {', '.join(there)}")
        chosen = tuple(name for name in there if tables is None or name in tables)
        if text and not len(log.vocab):
            raise LogError(
                f"{log.name}: has no vocab.parquet, so that tokens have no texts; leave out --text"
            )
        _check_columns(log, chosen, columns)
        _check_steps(log, chosen, steps)
        return cls(
            log, to, chosen, None if columns is None else frozenset(columns),
            None if steps is None else frozenset(steps), text, tuple(log.warnings()),
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Rows of tables with steps, for the progress."""
        return sum(
            step.rows
            for table in self.tables
            if table in schema.STEP_TABLES
            for step in self.log.steps(table)
            if self.steps is None or step.step in self.steps
        )


def _check_columns(log: Log, tables: Sequence[str], columns: Sequence[str] | None) -> None:
    known = {c.name for table in schema.TABLES for c in schema.columns_of(table)}
    stored = {name for t in tables if t != "vocab" for name in stored_columns(log, t)}
    for name in columns or ():
        if name not in known:
            raise UsageError(
                f"columns has {name!r}; choose from {', '.join(sorted(stored))}",
                parameter="columns",
            )
        if name not in stored:
            raise LogError(
                f"{log.name}: {', '.join(tables)} {'has' if len(tables) == 1 else 'have'} no "
                f"column {name}; there are {', '.join(sorted(stored))}"
            )


def _check_steps(log: Log, tables: Sequence[str], steps: Sequence[int] | None) -> None:
    there = {s.step for t in tables if t in schema.STEP_TABLES for s in log.steps(t)}
    for step in steps or ():
        if step not in there:
            shown = ", ".join(map(str, sorted(there))) or "none"
            raise LogError(
                f"{log.name}: {', '.join(tables)}: nothing at step {step}; there are {shown}"
            )


def _fill(plan: _Plan, folder: Path, progress: Progress | None) -> Iterator[ExportedTable]:
    """Write all files; the tables as they were written."""
    from rocktok.exporting.sinks import write_table

    if "sequences" in plan.tables:
        load_prompts(plan.log)  # refuses a sequence that is listed twice
    told, done = _Told(progress, plan.rows), []
    for name in plan.tables:
        form = _schema_of(plan, name)
        pieces = _pieces(plan, name, form)
        if name in schema.STEP_TABLES:
            pieces = told.each(pieces)
        files, rows = write_table(folder, name, plan.to, form, pieces)
        columns = {field.name: str(field.type) for field in form}
        done.append(ExportedTable(name, columns, rows, tuple(files)))
    if plan.to == "datasets":
        write_synced(
            folder / "README.md", card(done, plan.log.run_id, plan.log.rules.exactness, __version__)
        )
    write_synced(folder / MARKER, _described(plan, done))
    yield from done


def _schema_of(plan: _Plan, table: str) -> pa.Schema:
    """Of the rows that are written: the log's own types, bytes as bytes, and texts where asked."""
    import pyarrow as pa

    if table == "vocab":
        return pa.schema([("token_id", pa.int32()), ("token", pa.string())])
    stored = stored_columns(plan.log, table)
    optional = [
        name
        for name in stored
        if name not in schema.required_names(table)
        and (plan.columns is None or name in plan.columns)
    ]
    fields = []
    for field in schema.arrow_schema(table, optional):
        # Not every reader knows strings of bytes of one size.
        is_bytes = pa.types.is_fixed_size_binary(field.type)
        fields.append(field.with_type(pa.binary()) if is_bytes else field)
        if field.name == "token_id" and plan.text:
            fields.append(pa.field("token", pa.string()))
    return pa.schema(fields)


def _pieces(plan: _Plan, table: str, form: pa.Schema) -> Iterator[pa.Table]:
    import pyarrow as pa

    if table == "vocab":
        texts = plan.log.vocab.texts
        ids = sorted(texts)
        yield pa.table({"token_id": ids, "token": [texts[v] for v in ids]}, schema=form)
        return
    for rows in ordered_rows(plan.log, table, plan.columns, plan.steps):
        columns = {name: rows[name] for name in rows.column_names}
        if "token" in form.names:
            columns["token"] = _texts(plan.log, rows["token_id"])
        yield pa.table({name: columns[name] for name in form.names}).cast(form)


def _texts(log: Log, token_id: Any) -> pa.Array:
    """Texts of token ids; null for −1, which stands for none."""
    import pyarrow as pa

    encoded = token_id.combine_chunks().dictionary_encode()
    texts = [None if v < 0 else log.vocab.text(v) for v in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _described(plan: _Plan, tables: Collection[ExportedTable]) -> bytes:
    content = {
        "schema": SCHEMA,
        "log": plan.log.identity(),
        "format": plan.to,
        "steps": None if plan.steps is None else sorted(plan.steps),
        "tables": [
            {
                "name": one.name,
                "rows": one.rows,
                "files": list(one.files),
                "columns": [
                    {"name": name, "type": kind, "unit": unit, "meaning": meaning}
                    for name, kind in one.columns.items()
                    for unit, meaning in [meaning_of(one.name, name)]
                ],
            }
            for one in tables
        ],
        "notes": list(plan.notes),
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


class _Told:
    """Tells how many rows are done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def each(self, pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The pieces, counted."""
        for piece in pieces:
            yield piece
            self._done += len(piece)
            if self._progress is not None:
                self._progress(self._done, self._total)
