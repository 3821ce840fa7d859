"""NeMo-RL's offline inputs: what was sampled, kept for a later replay of the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rocktok.errors import LogError
from rocktok.hooks.rollouts import prompt_identity
from rocktok.importers.source import Options, Text, TextSource, check_ids, correct_of, stretches
from rocktok.importers.torch_files import load_pt
from rocktok.importers.words import files_of, laid_out, last_number, whole_or_last

#: Names of its files in a folder.
PATTERNS = ("*offline_inputs*.pt",)

_NEEDED = ("step", "input_ids", "token_mask", "input_length")


def texts(paths: tuple[Path, ...], options: Options) -> TextSource:
    """Sequences of payloads `opd_topk_offline_inputs`; a stretch of scored tokens each.

    Raises `LogError` for other files, and for two files of one step.
    """
    files = sorted(files_of(paths, *PATTERNS), key=lambda p: (last_number(p) or 0, p))
    notes: list[str] = []

    def found() -> Iterator[Text]:
        owners: dict[int, Path] = {}
        for path, content in whole_or_last(files, _load, notes):
            step = content["step"]
            if owners.setdefault(step, path) != path:
                raise LogError(
                    f"{path}: is of step {step}, and so is {owners[step]}: files of two runs; "
                    "import each run by itself"
                )
            with laid_out(path):
                found_here = list(_texts(path, content))
            yield from found_here

    return TextSource(found, {"correct": "bool"}, notes)


def _load(path: Path) -> dict[str, Any]:
    content = load_pt(path)
    with laid_out(path):
        return _checked(path, content)


def _checked(path: Path, content: Any) -> dict[str, Any]:
    missing = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise LogError(f"{path}: has no {', '.join(missing)}; it is no offline input of NeMo-RL")
    shape = content["input_ids"].shape
    if len(shape) != 2 or content["token_mask"].shape != shape:
        raise LogError(f"{path}: input_ids and token_mask are not of one shape")
    found: dict[str, Any] = content
    return found


def _texts(path: Path, content: dict[str, Any]) -> Iterator[Text]:
    # Written before the update of the step, which NeMo-RL counts from 1.
    step = int(content["step"]) - 1
    counted, reward = content.get("sample_loss_mask"), content.get("reward")
    for sample, length in enumerate(content["input_length"].tolist()):
        if counted is not None and float(counted[sample]) <= 0:
            continue
        ids = content["input_ids"][sample][:length].tolist()
        check_ids(ids, f"{path}: sample {sample}")
        mask_T = np.asarray(content["token_mask"][sample][:length].numpy()).astype(bool)
        correct = correct_of(None if reward is None else float(reward[sample])).get("correct")
        found = stretches(mask_T, f"{path}: sample {sample}")
        for begin, end in found:
            prompt = prompt_identity(ids[: found[0][0]])
            yield Text(step, prompt, ids[:begin], ids[begin:end], {"correct": correct})
