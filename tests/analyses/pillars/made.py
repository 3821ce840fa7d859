"""Outcomes made by hand or at random: what `rocktok intervene` would write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rocktok._types import Array
from rocktok.outcomes import About, Outcomes, encode_outcomes, outcomes_schema
from rocktok.outcomes.checks import checked_outcomes
from rocktok.outcomes.schema import COLUMNS

NAMES = tuple(name for name, _, _ in COLUMNS)


@dataclass
class Made:
    """Columns of a table, to which arms are added.

    `answers` of an arm: (P, D) truth values. `more`: of each of its cells, (P, D).
    """

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in NAMES})
    about: About = field(default_factory=lambda: About(benchmark="toy"))

    def add(
        self,
        arm: str,
        answers: Array | Sequence[Sequence[int]],
        *,
        group: str = "rock",
        control_of: int | None = None,
        fired: Array | bool | None = None,
        problems: Sequence[str] | None = None,
        **more: Array,
    ) -> Made:
        """An arm; its mode and token are in its name, as in "ban:7"."""
        answers = np.asarray(answers, dtype=bool)
        mode, _, token = arm.partition(":")
        baseline = not token
        acted = np.broadcast_to(not baseline if fired is None else fired, answers.shape)
        for p, d in np.ndindex(*answers.shape):
            first = more.get("first_position")
            at = 3 if first is None else int(first[p, d])
            row = {
                "arm": arm,
                "token_id": -1 if baseline else int(token),
                "mode": "baseline" if baseline else mode,
                "group": "baseline" if baseline else group,
                "control_of": control_of,
                "problem_id": f"p{p}" if problems is None else problems[p],
                "seed": d // 2,
                "rollout": d % 2,
                "correct": bool(answers[p, d]),
                "num_tokens": int(more["num_tokens"][p, d]) if "num_tokens" in more else 12,
                "first_position": at if acted[p, d] else None,
                "fired": bool(acted[p, d]),
                "truncated": bool(more["truncated"][p, d]) if "truncated" in more else False,
            }
            for name in ("loss_after", "baseline_loss_after", "edit_after"):
                row[name] = float(more[name][p, d]) if name in more and acted[p, d] else None
            for name, value in row.items():
                self.columns[name].append(value)
        return self

    def encode(self) -> bytes:
        """The file."""
        return encode_outcomes(self.columns, self.about)

    def outcomes(self) -> Outcomes:
        """What is read of the file."""
        table = pa.table(self.columns, schema=outcomes_schema())
        return checked_outcomes(table, self.about, "made")

    def save(self, path: Path) -> Path:
        """Write the file."""
        path.write_bytes(self.encode())
        return path


def knockouts(folder: Path, benchmarks: Mapping[str, Mapping[int, Sequence[int]]]) -> Path:
    """A folder of knockouts: benchmark → token id (−1: baseline) → answers."""
    (folder / "tokens").mkdir(parents=True)
    tokens = dict.fromkeys(v for arms in benchmarks.values() for v in arms)
    for token_id in tokens:
        content: dict[str, Any] = {"model": "a-model"} if token_id < 0 else {
            "token_id": token_id, "token_string": f" t{token_id}", "frequency": 10}  # fmt: skip
        for name, arms in benchmarks.items():
            answers = [bool(one) for one in arms[token_id]]
            base = [bool(one) for one in arms[-1]]
            content[name] = {"accuracy": sum(answers) / len(answers), "correct": sum(answers),
                             "total": len(answers), "per_correct": answers}  # fmt: skip
            if token_id >= 0:
                content[name]["delta"] = (sum(answers) - sum(base)) / len(answers)
        name = "baseline.json" if token_id < 0 else f"tokens/token_{token_id}.json"
        (folder / name).write_text(json.dumps(content))
    return folder


def world(seed: int, *, problems: int = 60, draws: int = 2, arms: int = 6) -> Made:
    """Random outcomes with rocks, controls and placebo arms, two baselines, and all columns."""
    generator = np.random.default_rng(seed)
    skill = generator.beta(2, 1, problems)[:, None]
    shape = problems, draws
    lengths = generator.integers(20, 200, shape)
    made = Made()
    made.about["token_texts"] = {str(v): f" w{v}" for v in range(3 * arms)}

    def draw(lift: float = 0.0) -> Array:
        return generator.random(shape) < np.clip(skill + lift, 0, 1)

    made.add("baseline", draw(), num_tokens=lengths)
    made.add("baseline-2", draw(), num_tokens=lengths)
    for token in range(3 * arms):
        group = ("rock", "control", "placebo")[token // arms]
        made.add(
            f"ban:{token}",
            draw(-0.6 if token == 0 else 0.0),
            group=group,
            control_of=token - arms if group == "control" else None,
            fired=generator.random(shape) < 0.9,
            num_tokens=lengths,
            first_position=(lengths * generator.random(shape)).astype(int),
            loss_after=generator.gamma(2, 0.2, shape),
            baseline_loss_after=generator.gamma(2, 0.1, shape),
            edit_after=generator.random(shape),
        )
    return made
