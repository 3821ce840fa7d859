"""ms-swift's `completions.jsonl`: each line is a dict of columns, text alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rocktok.errors import LogError
from rocktok.importers.completions import Completion, completion_of, prompt_of, tokenised
from rocktok.importers.json_lines import json_lines, need
from rocktok.importers.source import Options, TextSource, same_length
from rocktok.importers.words import files_of

#: Names of its files in a folder.
PATTERNS = ("completions.jsonl",)

_COLUMNS = ("step", "prompt", "completion")


def texts(paths: tuple[Path, ...], options: Options) -> TextSource:
    """Sequences of lines {"step": […], "prompt": […], "completion": […]}.

    Raises `LogError` for other files, and for steps out of order, as of two runs in one file.
    """
    files = files_of(paths, *PATTERNS)

    def completions(notes: list[str]) -> Iterator[Completion]:
        for path in files:
            last = -1
            for where, line in json_lines(path, notes):
                columns: dict[str, list[Any]] = {
                    name: need(line, name, where, list) for name in _COLUMNS
                }
                for row in range(same_length(where, columns)):
                    step = columns["step"][row]
                    if not str(step).isdecimal():
                        raise LogError(f"{where}: step is {step!r}; it must be a number")
                    if int(step) < last:
                        raise LogError(
                            f"{where}: step {step} comes after step {last}: the file holds two "
                            "runs; split it"
                        )
                    last = int(step)
                    yield Completion(
                        where,
                        last,
                        prompt_of(columns["prompt"][row], where),
                        completion_of(columns["completion"][row], where),
                    )

    return tokenised(options, completions)
