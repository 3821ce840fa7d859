"""The folder of token knockouts that the authors' scripts write, as outcomes.

`baseline.json` has, for each benchmark, `per_correct`, one truth value per problem;
`tokens/token_<id>.json` has the same for the student without that token, which is banned at every
step. Nothing else of the texts is recorded there: not where a token was banned, nor whether it ever
would have been generated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.errors import LogError
from rocktok.outcomes import BASELINE, About, Arm, Outcomes

#: In `About.decoding` of such a table.
FORMAT = "knockout folder"

_WANTED = "give the folder that holds baseline.json and tokens/token_<id>.json"

_TOKEN = re.compile(r"token_(\d+)\.json")


def load_knockouts(folder: Path) -> list[Outcomes]:
    """One table of outcomes for each benchmark that the baseline has.

    Raises `LogError` for a folder that lacks files, and for a file that breaks the layout.
    """
    path = folder / "baseline.json"
    if not path.is_file():
        raise LogError(f"{folder}: has no baseline.json; {_WANTED}")
    baseline = _load(path)
    names = [name for name, value in baseline.items() if _has_answers(value)]
    if not names:
        raise LogError(f"{path}: has no benchmark with per_correct; {_WANTED}")
    ids = sorted(
        int(match[1])
        for file in (folder / "tokens").glob("*.json")
        if (match := _TOKEN.fullmatch(file.name))
    )
    if not ids:
        raise LogError(f"{folder}: has no tokens/token_<id>.json; {_WANTED}")
    correct = {name: [_answers(baseline, name, path)] for name in names}
    texts = {}
    for token_id in ids:
        file = folder / "tokens" / f"token_{token_id}.json"
        content = _load(file)
        if content.get("token_id", token_id) != token_id:
            raise LogError(
                f"{file}: its token_id is {content['token_id']}; the name says otherwise"
            )
        if isinstance(content.get("token_string"), str):
            texts[str(token_id)] = content["token_string"]
        for name in names:
            answers_P = _answers(content, name, file)
            problems = len(correct[name][0])
            if len(answers_P) != problems:
                raise LogError(
                    f"{file}: {name}.per_correct has {len(answers_P):,} problems, the baseline "
                    f"{problems:,}; arms need the same problems"
                )
            correct[name].append(answers_P)
    model = baseline.get("model")
    about: About = {
        "models": {"student": model} if isinstance(model, str) else {},
        "decoding": {"from": FORMAT},
        "token_texts": texts,
    }
    return [_outcomes(folder, name, np.array(correct[name]), ids, about) for name in names]


def _outcomes(folder: Path, name: str, correct_AP: Array, ids: list[int], about: About) -> Outcomes:
    shape = *correct_AP.shape, 1
    arms = [Arm(BASELINE, -1, "baseline", "baseline")]
    arms += [Arm(f"ban:{token_id}", token_id, "ban", "rock") for token_id in ids]
    absent = np.full(shape, np.nan, np.float32)
    zeros = np.zeros(shape, np.int32)
    # Whether an arm acted is not recorded: as if it had, everywhere.
    fired = np.ones(shape, bool)
    fired[0] = False
    columns = {
        "seed": zeros.astype(np.int64),
        "rollout": zeros,
        "correct": correct_AP[..., None],
        "num_tokens": zeros,
        "first_position": zeros - 1,
        "fired": fired,
        "loss_after": absent,
        "baseline_loss_after": absent,
        "edit_after": absent,
    }
    problems = tuple(map(str, range(correct_AP.shape[1])))
    return Outcomes(str(folder), {**about, "benchmark": name}, tuple(arms), problems, 1, columns)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror}); {_WANTED}") from error
    except (ValueError, RecursionError) as error:
        raise LogError(f"{path}: is not JSON ({error}); {_WANTED}") from error
    if not isinstance(content, dict):
        raise LogError(f"{path}: is no JSON object; {_WANTED}")
    return content


def _has_answers(value: object) -> bool:
    return isinstance(value, dict) and "per_correct" in value


def _answers(content: Mapping[str, Any], name: str, path: Path) -> Array:
    """(P,) bool of one benchmark."""
    part = content.get(name)
    answers = part.get("per_correct") if isinstance(part, dict) else None
    if not isinstance(answers, list):
        raise LogError(f"{path}: has no {name}.per_correct; {_WANTED}")
    for index, answer in enumerate(answers):
        if answer not in (0, 1):
            raise LogError(
                f"{path}: {name}.per_correct is {answer!r} for problem {index:,}; it must be true "
                "or false"
            )
    return np.array(answers, dtype=bool)
