"""Trainings with token weights: the same distillation with other tokens skipped or down-weighted.

Array suffixes: C conditions; S seeds; P problems.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import Any

import make
import models
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from experiment_settings import Settings
from experiment_toy import Toy, beside, read_problems
from scipy import stats
from transformers import PrinterCallback, TrainerCallback
from trl import DistillationTrainer

import rocktok
from rocktok.analyses.pillars.paired import flips_p, interval, resampled
from rocktok.hooks import TokenWeights
from rocktok.hooks.trl import attach_weights
from rocktok.stats.bootstrap import holm

DECODINGS = ("greedy", "sampled")

#: Problems answered at once. The models are so small that a step costs little more for many.
ANSWERED_AT_ONCE = 500


@dataclass(frozen=True)
class Condition:
    """Which tokens are weighted, and by how much; `select` None: none."""

    name: str
    select: str | None
    weight: float = 0.0

    def weights_name(self, seed: int) -> str:
        """Stem of its weights file. A random selection is another one for each training."""
        return f"{self.name}-seed{seed}" if self.select == "random" else self.name


UNWEIGHTED, ROCKS = "unweighted", "rocks-0"

CONDITIONS = (
    Condition(UNWEIGHTED, None, 1.0),
    Condition(ROCKS, "rocks"),
    Condition("rocks-0.5", "rocks", 0.5),
    Condition("frequency-0", "frequency"),
    Condition("mean-loss-0", "mean-loss"),
    Condition("random-0", "random"),
    Condition("control-0", "control"),
    Condition("tip-0", "lens:tip"),
)


# -- weights ---------------------------------------------------------------------------------


def write_weights(log: Path, rocks: Path, condition: Condition, seed: int, path: Path) -> None:
    """The weights file of a condition, with the loss of the rocks as its budget."""
    rocks = rocks.resolve()
    assert condition.select is not None
    with beside(log.resolve()) as name:
        found = rocktok.weights(
            rocks, log=name, select=condition.select, weight=condition.weight, seed=seed
        )
    for note in found.notes:
        print(f"{condition.name}: {note}")
    path.write_text(found.to_json())


# -- one training ----------------------------------------------------------------------------


class StepTimes(TrainerCallback):
    """Seconds of each step, by the clock and of all processors, and what it logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._began = (0.0, 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clocks."""
        self._began = (time.monotonic(), time.process_time())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop them."""
        wall, cpu = self._began
        self.rows.append(
            {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        """After each step."""
        if "loss" in logs:
            self.rows[-1]["loss"] = logs["loss"]
            self.rows[-1]["mean_length"] = logs["completions/mean_length"]


def train(toy: Toy, settings: Settings, weights: Path | None, seed: int, path: Path) -> None:
    """Distil with these weights; leave the student and its steps."""
    trainer = DistillationTrainer(
        model=make.load_model(toy.before, "sample-student"),
        teacher_model=make.load_model(toy.teacher, "sample-teacher"),
        args=make.distillation_config(
            path / "trainer",
            steps=settings.steps,
            batch=settings.batch,
            longest=settings.completion,
            seed=seed,
        ),
        train_dataset=make.training_prompts(),
        processing_class=models.load_tokenizer(toy.tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    times = StepTimes()
    trainer.add_callback(times)
    weighting: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if weights is not None:
        weighting = attach_weights(trainer, TokenWeights.load(weights))
    with weighting:
        trainer.train()
    trainer.model.save_pretrained(path / "student")
    (path / "steps.json").write_text(json.dumps(times.rows))


def answer(toy: Toy, settings: Settings, problems: Path, student: Path, path: Path) -> None:
    """Which of the held-out problems a student solves, greedily and by one draw each."""
    lines = read_problems(problems, settings.answered)
    prompts, answers = ([line[key] for line in lines] for key in ("prompt", "answer"))
    tokenizer = models.load_tokenizer(toy.tokenizer)
    model = make.load_model(student, "sample-student")
    right = {
        how: models.solved(
            model,
            tokenizer,
            prompts,
            answers,
            sampled=how == "sampled",
            batch=ANSWERED_AT_ONCE,
            longest=settings.longest,
        )
        for how in DECODINGS
    }
    path.write_text(json.dumps({how: [int(one) for one in row] for how, row in right.items()}))


def run(toy: Toy, folder: Path, settings: Settings) -> None:
    """All trainings, each a stage of its own, seed by seed: what is there can be compared."""
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "trainings").mkdir(exist_ok=True)
    for seed in settings.seeds:
        for condition in CONDITIONS:
            weights = None
            if condition.select is not None:
                weights = folder / "weights" / f"{condition.weights_name(seed)}.json"
                made = partial(write_weights, toy.log, folder / "rocks.json", condition, seed)
                make.stage(weights, made)
            place = folder / "trainings" / f"{condition.name}-seed{seed}"
            make.stage(place, partial(train, toy, settings, weights, seed))
            answers = partial(answer, toy, settings, folder / "problems.jsonl", place / "student")
            make.stage(place / "answers.json", answers)


# -- what came out ---------------------------------------------------------------------------


def write_answers(folder: Path, settings: Settings, path: Path) -> None:
    """All answers as one table: condition, seed, decoding, problem_id, correct."""
    ids = [line["id"] for line in read_problems(folder / "problems.jsonl", settings.answered)]
    columns: dict[str, list[Any]] = {
        name: [] for name in ("condition", "seed", "decoding", "problem_id", "correct")
    }
    for condition in CONDITIONS:
        for seed in settings.seeds:
            right = _read(folder, condition.name, seed, "answers")
            for how in DECODINGS:
                columns["condition"] += [condition.name] * len(ids)
                columns["seed"] += [seed] * len(ids)
                columns["decoding"] += [how] * len(ids)
                columns["problem_id"] += ids
                columns["correct"] += [bool(one) for one in right[how]]
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19)


def write_summary(folder: Path, settings: Settings, path: Path) -> None:
    """Accuracies, contrasts and times of all trainings."""
    answers = {how: _answers(folder, settings, how) for how in DECODINGS}
    steps = {
        condition.name: [
            [row["cpu_seconds"] for row in _read(folder, condition.name, seed, "steps")]
            for seed in settings.seeds
        ]
        for condition in CONDITIONS
    }
    lengths = {
        condition.name: mean(
            row["mean_length"]
            for seed in settings.seeds
            for row in _read(folder, condition.name, seed, "steps")
        )
        for condition in CONDITIONS
    }
    content = {
        "problems": settings.answered,
        "seeds": list(settings.seeds),
        "steps": settings.steps,
        "accuracies": [
            row for how in DECODINGS for row in accuracy_rows(how, answers[how])
        ],
        "contrasts": [
            row
            for how in DECODINGS
            for reference in (UNWEIGHTED, ROCKS)
            for row in contrast_rows(how, reference, answers[how])
        ],
        "conditions": [
            {
                "condition": condition.name,
                "weight": condition.weight,
                **_budget(folder, condition, settings.seeds),
                "step_cpu_seconds": median(chain(*steps[condition.name])),
                "step_ratio": step_ratio(steps[condition.name], steps[UNWEIGHTED]),
                "mean_length": lengths[condition.name],
            }
            for condition in CONDITIONS
        ],
    }  # fmt: skip
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def accuracy_rows(decoding: str, right: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy of each condition, in all and by seed. `right`: condition → (S, P)."""
    return [
        {
            "decoding": decoding,
            "condition": name,
            "accuracy": float(right_SP.mean()),
            "by_seed": right_SP.mean(axis=1).tolist(),
        }
        for name, right_SP in right.items()
    ]


def contrast_rows(decoding: str, reference: str, right: dict[str, Any]) -> list[dict[str, Any]]:
    """Each condition with weights less a reference, on the same problems and seeds.

    The interval over problems and `p_problems` hold for these very trainings; that over seeds, from
    Student's t, for any: it allows for what another training would give. `p_holm` corrects the
    p-values over seeds for the number of rows. One seed has no interval over seeds.
    """
    rows: list[dict[str, Any]] = []
    for name, right_SP in right.items():
        if name in (reference, UNWEIGHTED):
            continue
        difference_SP = right_SP.astype(np.int64) - right[reference]
        seeds, problems = difference_SP.shape
        sum_P = difference_SP.sum(axis=0)
        low, high = interval(resampled(sum_P, 10_000, (0, len(rows))) / seeds, 0.95)
        of_seed_S = difference_SP.mean(axis=1)
        rows.append(
            {
                "decoding": decoding,
                "condition": name,
                "reference": reference,
                "difference": float(difference_SP.sum()) / (seeds * problems),
                "problems_low": low,
                "problems_high": high,
                "p_problems": flips_p(sum_P),
                **over_seeds(of_seed_S),
            }
        )
    tested = [row for row in rows if row["p_seeds"] is not None]
    for row, p_value in zip(tested, holm([row["p_seeds"] for row in tested]), strict=True):
        row["p_holm"] = p_value
    return rows


def over_seeds(difference_S: Any) -> dict[str, float | None]:
    """95% interval and p of the mean of differences of pairs of trainings, by Student's t."""
    nothing = dict.fromkeys(("seeds_low", "seeds_high", "p_seeds", "p_holm"))
    if len(difference_S) < 2:
        return nothing
    middle = float(difference_S.mean())
    error = float(difference_S.std(ddof=1)) / len(difference_S) ** 0.5
    if error == 0:  # the same in all: only chance, or answers that are the same
        return nothing
    freedom = len(difference_S) - 1
    half = float(stats.t.ppf(0.975, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(middle) / error, freedom))
    return {**nothing, "seeds_low": middle - half, "seeds_high": middle + half, "p_seeds": p_value}


def step_ratio(seconds: list[list[float]], unweighted: list[list[float]]) -> float:
    """CPU time of a step over that of a step without weights: median over steps, mean over seeds.

    The first step, which sets up, is left out where there are others.
    """
    ratios = [
        median(ours[1:] or ours) / median(theirs[1:] or theirs)
        for ours, theirs in zip(seconds, unweighted, strict=True)
    ]
    return mean(ratios)


def _answers(folder: Path, settings: Settings, decoding: str) -> dict[str, Any]:
    """Condition → (S, P) bool."""
    return {
        condition.name: np.array(
            [_read(folder, condition.name, seed, "answers")[decoding] for seed in settings.seeds],
            dtype=bool,
        )
        for condition in CONDITIONS
    }


def _budget(folder: Path, condition: Condition, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Selected types, and their shares of the loss and of the positions: means over seeds."""
    if condition.select is None:
        return {"token_types": 0, "loss_share": 0.0, "token_share": 0.0}
    files = [
        json.loads((folder / "weights" / f"{condition.weights_name(seed)}.json").read_text())
        for seed in seeds
    ]
    return {
        "token_types": mean(len(file["token_ids"]) for file in files),
        "loss_share": mean(file["budget"]["loss_share"] for file in files),
        "token_share": mean(file["budget"]["token_share"] for file in files),
    }


def _read(folder: Path, condition: str, seed: int, name: str) -> Any:
    return json.loads(
        (folder / "trainings" / f"{condition}-seed{seed}" / f"{name}.json").read_text()
    )
