"""prime-rl's token exports: the ids that were trained on, without the teacher.

Each stretch of scored tokens becomes a sequence, with all that stands before it as its prompt: so
what tools have written is scored by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rocktok.errors import LogError
from rocktok.hooks.rollouts import prompt_identity
from rocktok.importers.json_lines import json_lines, need
from rocktok.importers.source import (
    MOST_LOGPROB,
    Options,
    Text,
    TextSource,
    check_ids,
    check_mask,
    check_step,
    same_length,
    stretches,
)
from rocktok.importers.words import files_of, laid_out

#: Names of its files in a folder.
PATTERNS = ("step_*/rank_*.jsonl", "rank_*.jsonl", "token_exports/step_*/*.jsonl")

_STEP = re.compile(r"step_(\d+)")
#: Their name → ours.
_STUDENT = {"trainer_logprobs": "student_logprob", "entropy": "student_entropy"}
#: Ours → least and most, nats; no vocabulary has an entropy of 100, and rounding may go below 0.
_RANGES = {"student_logprob": (-1e6, MOST_LOGPROB), "student_entropy": (-MOST_LOGPROB, 100.0)}


def texts(paths: tuple[Path, ...], options: Options) -> TextSource:
    """Sequences of `token_exports/step_*/rank_*.jsonl`, with the student's own statistics.

    Raises `LogError` for other files, for steps out of order, for values that cannot be.
    """
    files = files_of(paths, *PATTERNS)
    files.sort(key=lambda path: (_step_of(path), path.name))
    notes: list[str] = []

    def found() -> Iterator[Text]:
        for path in files:
            folder = _step_of(path)
            for where, line in json_lines(path, notes):
                step = need(line, "step", where, int)
                check_step(step, where)
                if folder >= 0 and step != folder:
                    raise LogError(
                        f"{where}: is of step {step}, in the folder of step {folder}: files of two "
                        "runs, or out of order"
                    )
                with laid_out(where):
                    stretches_here = list(_texts(where, step, line))
                yield from stretches_here

    def summary() -> str:
        return (
            "Token ids are the trainer's own; student_logprob and student_entropy stand beside "
            "them. Losses need a teacher: rocktok rescore --text."
        )

    return TextSource(found, dict.fromkeys(_STUDENT.values(), "floats"), notes, summary)


def _step_of(path: Path) -> int:
    named = _STEP.fullmatch(path.parent.name)
    return int(named[1]) if named else -1


def _texts(where: str, step: int, line: dict[str, Any]) -> Iterator[Text]:
    version = line.get("schema_version", 1)
    if version != 1:
        raise LogError(f"{where}: schema_version is {version!r}; this rocktok reads 1")
    ids = need(line, "token_ids", where, list)
    mask = need(line, "loss_mask", where, list)
    columns = {own: need(line, name, where, list) for name, own in _STUDENT.items()}
    same_length(where, {"token_ids": ids, "loss_mask": mask, **columns})
    check_ids(ids, where)
    check_mask(mask, where)
    mask_T = np.asarray(mask).astype(bool)
    found = stretches(mask_T, where)
    for begin, end in found:
        facts = {own: values[begin:end] for own, values in columns.items()}
        for own, (least, most) in _RANGES.items():
            for value in facts[own]:
                if type(value) not in (int, float) or not least <= value <= most:
                    raise LogError(
                        f"{where}: {own} of a scored token is {value!r}; it must be a number from "
                        f"{least:g} to {most:g}"
                    )
        prompt = prompt_identity(ids[: found[0][0]])
        yield Text(step, prompt, ids[:begin], ids[begin:end], facts)
