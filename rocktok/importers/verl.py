"""verl's `rollout_data_dir`: one JSON Lines file a step, text without its special tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rocktok.errors import LogError
from rocktok.importers.completions import Completion, tokenised
from rocktok.importers.json_lines import json_lines, need
from rocktok.importers.source import Options, TextSource, correct_of
from rocktok.importers.words import files_of, last_number

#: Names of its files in a folder.
PATTERNS = ("*.jsonl",)


def texts(paths: tuple[Path, ...], options: Options) -> TextSource:
    """Sequences of `<step>.jsonl` with keys input, output, score, step.

    Raises `LogError` for other files, and for those of two runs.
    """
    files = sorted(files_of(paths, *PATTERNS), key=lambda p: (last_number(p) or 0, p.name))

    def completions(notes: list[str]) -> Iterator[Completion]:
        notes.append(
            "verl decodes without special tokens: prompts lack the chat template's, and are scored "
            "without them"
        )
        owners: dict[int, Path] = {}
        for path in files:
            for where, line in json_lines(path, notes):
                step = need(line, "step", where, int)
                if owners.setdefault(step, path) != path:
                    raise LogError(
                        f"{where}: is of step {step}, and so is {owners[step]}: files of two runs; "
                        "import each run by itself"
                    )
                facts = {"correct": correct_of(line.get("score")).get("correct")}
                yield Completion(
                    where,
                    step,
                    need(line, "input", where, str),
                    need(line, "output", where, str),
                    facts,
                )

    return tokenised(options, completions, {"correct": "bool"})
