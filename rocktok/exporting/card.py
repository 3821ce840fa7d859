"""README.md of an exported folder: what each file holds, and how the Hub and `datasets` load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rocktok.schema as schema

_VOCAB = {
    "token_id": ("–", "as in the other tables"),
    "token": ("–", "text of the token"),
}


@dataclass(frozen=True)
class ExportedTable:
    """One table as it was written: its columns (name → Arrow type), rows, and relative paths."""

    name: str
    columns: dict[str, str]
    rows: int
    files: tuple[str, ...]


def main_table(tables: Sequence[ExportedTable]) -> ExportedTable:
    """The one that is read first: `fixed` where it was written."""
    return next((one for one in tables if one.name == "fixed"), tables[0])


def card(
    tables: Sequence[ExportedTable], run_id: str | None, exactness: str, version: str
) -> bytes:
    """The README; its header tells `datasets` which files are which configuration."""
    main = main_table(tables).name
    header = ["---", "configs:"]
    for table in tables:
        header += [
            f"- config_name: {table.name}",
            *(["  default: true"] if table.name == main else []),
            "  data_files:",
            "  - split: train",
            f"    path: {table.name}/*.parquet",
        ]
    text = [
        *header,
        "---",
        "",
        "# Per-token losses of an on-policy distillation",
        "",
        f"Exported by rocktok {version} from the log of {f'run {run_id}' if run_id else 'a run'}. "
        f"Exactness of the losses: {exactness}.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'{main} = load_dataset("path/of/this/folder", "{main}", split="train")',
        "```",
    ]
    for table in tables:
        text += ["", f"## {table.name}", "", f"{table.rows:,} rows.", ""]
        text += ["| column | type | unit | meaning |", "|---|---|---|---|"]
        text += [
            f"| `{name}` | {kind} | {unit} | {_cell(meaning)} |"
            for name, kind in table.columns.items()
            for unit, meaning in [meaning_of(table.name, name)]
        ]
    return ("\n".join(text) + "\n").encode()


def meaning_of(table: str, column: str) -> tuple[str, str]:
    """(unit, meaning) of a column."""
    for one in schema.columns_of(table) if table != "vocab" else ():
        if one.name == column:
            return one.unit, one.meaning
    return _VOCAB[column]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
