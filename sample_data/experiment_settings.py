"""Sizes of the experiments: as they count, and as a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass

import models
import problems


@dataclass(frozen=True)
class Settings:
    """Sizes of the experiments.

    Attributes:
        name: of the directory, within that of the models.
        problems: on which tokens are banned; replaced: the first of these, on which tokens are
            replaced; answered: the first of these, which trained students answer.
        rocks: number of rocks, the first of `detect`; None: all.
        longest: tokens of an answer at most; temperature: of its draws, 0: greedy.
        batch_tokens: tokens of a batch of `intervene`.
        seeds: of the trainings, each of which takes `steps` of `batch` rollouts of at most
            `completion` tokens.
        prompts: of the language model; language_rocks, language_tokens: as `rocks` and `longest`.
        recipes: of the toy models; None: they are those of make.py.
    """

    name: str = "experiments"
    problems: int = 6000
    replaced: int = 3000
    answered: int = 1000
    rocks: int | None = None
    longest: int = 192
    temperature: float = 0.0
    batch_tokens: int = 49_152
    seeds: tuple[int, ...] = (1, 2, 3)
    steps: int = 100
    batch: int = 32
    completion: int = 160
    prompts: int = 150
    language_rocks: int = 20
    language_tokens: int = 64
    language_batch_tokens: int = 4096
    recipes: dict[str, models.Recipe] | None = None


FULL = Settings()

#: Models that have only begun to write; drawn, their texts hold rocks, controls and placebos.
SMOKE = Settings(
    name="experiments-smoke",
    problems=24,
    replaced=16,
    answered=8,
    rocks=8,
    longest=40,
    temperature=1.0,
    batch_tokens=4096,
    seeds=(1,),
    steps=1,
    batch=4,
    completion=16,
    prompts=8,
    language_rocks=4,
    language_tokens=24,
    recipes={
        "teacher": models.Recipe(problems.TEACHER, 48, 2, 2, 40, 5e-3, seed=1, batch=16),
        "student": models.Recipe(problems.STUDENT, 48, 2, 2, 40, 5e-3, seed=2, batch=16),
    },
)
