"""Replaced tokens of the language-model sample, measured by the loss behind them.

Its prompts have no right answer: what a replacement does is the reverse KL of student and teacher
over the next tokens, and how much of the text changes, at rocks, controls and placebos.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import make
import smol_models
import smol_prompts
from experiment_settings import Settings
from experiment_toy import Toy, beside, tenths, write_controls

import rocktok

#: Prompts that make_smol.py draws for training come first; its seed.
TRAINED_PROMPTS, PROMPT_SEED = 1440, 3

#: Name of the link to make_smol.py's work directory.
LINK = "language-model"


@dataclass(frozen=True)
class Language:
    """A distilled language model.

    Attributes:
        student, teacher: with their tokenizers, named from the directory of the experiments.
        log: of the distillation.
        chat: whether prompts go into a chat template.
        step: steps of training behind the student; None: all.
    """

    student: str
    teacher: str
    log: Path
    chat: bool
    step: int | None = None


def of_sample(work: Path, folder: Path) -> Language:
    """What make_smol.py has made in its work directory; unrecorded, the sample's own log.

    A link leads there: outcomes must not hold the paths of a machine.
    """
    run = work / "run"
    if not run.exists():
        run = work / "run-unrecorded"
    found = smol_models.checkpoints(run / "trainer")
    if not found or not (work / "models" / "teacher").is_dir():
        raise click.ClickException(f"{work}: holds no trained model; run make_smol.py --work there")
    link = folder / LINK
    link.unlink(missing_ok=True)
    link.symlink_to(work.resolve())
    student = Path(LINK) / found[max(found)].relative_to(work)
    log = run / "log" if (run / "log").exists() else make.HERE / "smol"
    return Language(str(student), f"{LINK}/models/teacher", log, chat=True, step=max(found))


def stand_in(toy: Toy) -> Language:
    """The toy models in place of a language model, as a rehearsal."""
    return Language("models/student", "models/teacher", toy.log, chat=False)


def unjudged(completion: str, line: dict[str, Any]) -> bool:
    """A checker of `rocktok intervene` where no answer is right; what it returns is not used."""
    return False


def write_prompts(count: int, path: Path) -> None:
    """Prompts that training has not seen."""
    drawn = smol_prompts.draw_prompts(TRAINED_PROMPTS + count, PROMPT_SEED)[TRAINED_PROMPTS:]
    path.write_text(
        "".join(
            json.dumps({"id": f"{i:04d}", "prompt": one.text, "answer": "", "domain": one.domain})
            + "\n"
            for i, one in enumerate(drawn)
        )
    )


def write_rocks(log: Path, path: Path) -> None:
    """Every type of a log, with what `detect` says of it.

    Where the tested rule names no rocks, these are what the paper's names: the first by Rock Score
    with a retained occurrence.
    """
    with beside(log.resolve()) as name:
        found = rocktok.detect(name, all_types=True)
        if not found.rocks:
            found = rocktok.detect(name, rule="top-k", all_types=True)
    path.write_text(found.to_json())


def replace(language: Language, folder: Path, settings: Settings, path: Path) -> None:
    """Outcomes at temperature 1, as in training; the first occurrence of a token is replaced."""
    target = path.resolve()
    with contextlib.chdir(folder):
        rocktok.intervene(
            language.student,
            "prompts.jsonl",
            "language-rocks.json",
            target,
            teacher=language.teacher,
            checker="experiment_language:unjudged",
            modes=("replace",),
            controls="language-controls.json",
            top=settings.language_rocks,
            benchmark="language model",
            max_new_tokens=settings.language_tokens,
            temperature=1.0,
            chat=language.chat,
            batch_tokens=settings.language_batch_tokens,
            device="cpu",
            dtype="float32",
            force=True,
            progress=tenths("language model"),
        )


def run(language: Language, folder: Path, settings: Settings) -> None:
    """All stages, up to the summary."""
    make.stage(folder / "prompts.jsonl", partial(write_prompts, settings.prompts))
    rocks = folder / "language-rocks.json"
    make.stage(rocks, partial(write_rocks, language.log))
    make.stage(folder / "language-controls.json", partial(write_controls, language.log, rocks))
    make.stage(folder / "language.parquet", partial(replace, language, folder, settings))
    make.stage(folder / "language.json", partial(write_summary, language, folder))


def write_summary(language: Language, folder: Path, path: Path) -> None:
    """Loss and edits behind the places; nothing of accuracies, of which there are none."""
    with contextlib.chdir(folder):
        found = rocktok.pillars("language.parquet")
        rocks = json.loads(Path("language-rocks.json").read_text())
    source = found.sources[0]
    content = {
        "step": language.step,
        "rule": rocks["params"]["rule"],
        "rocks": sum(row["is_rock"] for row in rocks["tokens"]),
        "prompts": source["problems"],
        "arms": source["arms"],
        "never_fired": source["never_fired"],
        "models": source["models"],
        "decoding": source["decoding"],
        "compensation": list(found.compensation),
        "compensation_contrasts": list(found.compensation_contrasts),
    }
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
