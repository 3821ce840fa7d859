"""The toy models as the experiments take them: models, held-out problems, rocks and controls."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import make
import models
import problems
from experiment_settings import Settings

import rocktok

#: Seed of the problems beyond those that make.py measures with.
MORE_SEED = 998


@dataclass(frozen=True)
class Toy:
    """What make.py has made.

    Attributes:
        tokenizer, teacher: of the distillation; before, after: the student.
        log: whose rocks are tested.
    """

    tokenizer: Path
    teacher: Path
    before: Path
    after: Path
    log: Path


def made(work: Path, folder: Path, settings: Settings, log: Path | None) -> Toy:
    """The models, made by make.py's stages unless they are there. `log`: another one for rocks."""
    if settings.recipes is not None:
        return rehearsed(folder, settings.recipes, log)
    # The second distillation of make.py adds gradients, of which nothing is used here.
    distilled = make.distil_once(work, record=True)
    return Toy(
        work / "tokenizer",
        work / "teacher",
        work / "student",
        distilled / "student",
        log or distilled / "log",
    )


def rehearsed(folder: Path, recipes: dict[str, models.Recipe], log: Path | None) -> Toy:
    """Models of other recipes; the student is not distilled, and the rocks are the sample's."""
    tokenizer = folder / "tokenizer"
    make.stage(tokenizer, models.make_tokenizer)
    avoid = held_out_prompts()
    for name, recipe in recipes.items():

        def train(path: Path, name: str = name, recipe: models.Recipe = recipe) -> None:
            models.train_model(name, models.load_tokenizer(tokenizer), path, avoid, recipe)

        make.stage(folder / name, train)
    student = folder / "student"
    return Toy(tokenizer, folder / "teacher", student, student, log or make.HERE / "opd")


def save_models(toy: Toy, path: Path) -> None:
    """Student and teacher beside their tokenizer, as `rocktok intervene` takes them."""
    tokenizer = models.load_tokenizer(toy.tokenizer)
    for name, source in (("student", toy.after), ("teacher", toy.teacher)):
        shutil.copytree(source, path / name)
        tokenizer.save_pretrained(path / name)


# -- problems --------------------------------------------------------------------------------


def held_out_prompts() -> frozenset[str]:
    """The prompts by which make.py measures accuracy."""
    return frozenset(problem.prompt for problem in make.held_out_problems())


def draw_problems(count: int) -> list[problems.Problem]:
    """Problems that no model has seen: those of make.py, then others."""
    known = make.held_out_problems()
    if count <= len(known):
        return known[:count]
    held_out = held_out_prompts()
    seen = {
        prompt
        for recipe in models.RECIPES.values()
        for corpus in models.corpora(recipe, held_out)
        for prompt, _ in corpus
    }
    seen.update(make.training_prompts()["prompt"])
    more = problems.draw_distinct(count - len(known), MORE_SEED, held_out | seen)
    return [*known, *more]


def write_problems(count: int, path: Path) -> None:
    """Problems as lines of JSON."""
    path.write_text(
        "".join(
            json.dumps({"id": f"{number:05d}", "prompt": one.prompt, "answer": one.answer}) + "\n"
            for number, one in enumerate(draw_problems(count))
        )
    )


def read_problems(path: Path, count: int | None = None) -> list[dict[str, Any]]:
    """The first lines of `write_problems`."""
    return [json.loads(line) for line in path.read_text().splitlines()[:count]]


def write_first(source: Path, count: int, path: Path) -> None:
    """The first lines of a file."""
    lines = source.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:count]))


# -- rocks -----------------------------------------------------------------------------------


@contextlib.contextmanager
def beside(log: Path) -> Any:
    """Work where a log is, and give its name: results must not hold the paths of a machine."""
    with contextlib.chdir(log.parent):
        yield log.name


def write_rocks(log: Path, path: Path) -> None:
    """Every type of a log, with what `detect` says of it."""
    with beside(log.resolve()) as name:
        found = rocktok.detect(name, all_types=True)
    path.write_text(found.to_json())


def write_controls(log: Path, rocks: Path, path: Path) -> None:
    """Types that are no rocks, matched by frequency and by loss."""
    content = json.loads(rocks.read_text())
    ids = tuple(row["token_id"] for row in content["tokens"] if row["is_rock"])
    with beside(log.resolve()) as name:
        found = rocktok.controls(name, rocks=ids, kinds=("frequency", "loss"))
    path.write_text(found.to_json())


def prepare(toy: Toy, folder: Path, settings: Settings) -> None:
    """All that interventions and trainings read."""
    make.stage(folder / "models", partial(save_models, toy))
    every = folder / "problems.jsonl"
    make.stage(every, partial(write_problems, settings.problems))
    make.stage(folder / "replaced.jsonl", partial(write_first, every, settings.replaced))
    make.stage(folder / "rocks.json", partial(write_rocks, toy.log))
    make.stage(folder / "controls.json", partial(write_controls, toy.log, folder / "rocks.json"))


# -- interventions ---------------------------------------------------------------------------


def tenths(name: str) -> Callable[[int, int], None]:
    """A progress that is told at each tenth."""
    told = {0}

    def progress(done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        if tenth not in told:
            told.add(tenth)
            click.echo(f"{name}: {done:,} of {total:,} completions")
        if done == total:
            told.clear()
            told.add(0)

    return progress


def ban(folder: Path, settings: Settings, path: Path) -> None:
    """Outcomes of the student with each rock, control and placebo banned."""
    _intervene(folder, settings, path, "problems.jsonl", "ban", None)


def replace(folder: Path, settings: Settings, path: Path) -> None:
    """Outcomes with the first occurrence of each replaced by what the teacher would write."""
    _intervene(folder, settings, path, "replaced.jsonl", "replace", "models/teacher")


def _intervene(
    folder: Path, settings: Settings, path: Path, asked: str, mode: str, teacher: str | None
) -> None:
    # A run that was killed goes on: its parts are beside the unfinished output.
    target = path.resolve()
    with contextlib.chdir(folder):
        done = rocktok.intervene(
            "models/student",
            asked,
            "rocks.json",
            target,
            teacher=teacher,
            checker="problems:is_answered",
            modes=(mode,),
            controls="controls.json",
            top=settings.rocks,
            benchmark="toy word problems",
            max_new_tokens=settings.longest,
            temperature=settings.temperature,
            batch_tokens=settings.batch_tokens,
            device="cpu",
            dtype="float32",
            force=True,
            progress=tenths(mode),
        )
    click.echo("\n".join(done.answer()))


def judge(folder: Path, outcomes: str, path: Path) -> None:
    """What `rocktok pillars` says of outcomes."""
    with contextlib.chdir(folder):
        found = rocktok.pillars(outcomes, predictors=["rocks.json"])
    path.write_text(found.to_json())
