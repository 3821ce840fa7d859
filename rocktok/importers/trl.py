"""TRL's `completions/completions_*.parquet`: prompts and completions as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rocktok.errors import DamagedError, LogError
from rocktok.importers.completions import Completion, completion_of, prompt_of, tokenised
from rocktok.importers.source import Options, TextSource
from rocktok.importers.words import files_of, last_number, whole_or_last

#: Names of its files in a folder.
PATTERNS = ("completions_*.parquet",)

_COLUMNS = ("step", "prompt", "completion")


def texts(paths: tuple[Path, ...], options: Options) -> TextSource:
    """Sequences of files with columns step, prompt, completion.

    Raises `LogError` for other files, `DamagedError` for a damaged one that others follow.
    """
    files = sorted(files_of(paths, *PATTERNS),
                   key=lambda path: (last_number(path) or 0, path.name))  # fmt: skip

    def completions(notes: list[str]) -> Iterator[Completion]:
        for path, rows in whole_or_last(files, _load, notes):
            for number, row in enumerate(rows):
                where = f"{path}: row {number}"
                step = row["step"]
                if not isinstance(step, int | float | str) or not str(step).isdecimal():
                    raise LogError(f"{where}: step is {step!r}; it must be a number")
                yield Completion(
                    where,
                    int(step),
                    prompt_of(row["prompt"], where),
                    completion_of(row["completion"], where),
                )

    return tokenised(options, completions)


def _load(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [name for name in _COLUMNS if name not in names]
            if missing:
                raise LogError(
                    f"{path}: has no column {', '.join(missing)}; it is no file of TRL's"
                )
            rows: list[dict[str, Any]] = file.read(list(_COLUMNS)).to_pylist()
            return rows
    except (pa.ArrowException, OSError) as error:
        line = str(error).splitlines()[0]
        raise DamagedError(f"{path}: cannot be read as Parquet ({line}); copy it again") from error
