"""Healthy runs, and runs whose losses depend on nothing: what is said of them is what is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from tests.check_worlds import World

WORLD = {"prompts": 60, "rollouts": 2, "steps": (0, 10, 20, 30), "length": 120}


class Shuffled(World):
    """Losses dealt out anew over all positions of a step."""

    def rows(self, step: int, texts: list[Any], first: int) -> dict[str, Any]:
        rows = super().rows(step, texts, first)
        rng = np.random.default_rng([self.seed, step, first, 9])
        return {**rows, "loss": rng.permutation(rows["loss"])}


FURTHER = [pytest.mark.long, pytest.mark.exhaustive]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=FURTHER) for seed in range(1, 6))])
@pytest.mark.parametrize("kind", [World, Shuffled])
def test_nothing_is_found_where_nothing_is_wrong(
    kind: type[World], seed: int, tmp_path: Path
) -> None:
    log = kind(**{**WORLD, "seed": 500 + seed}).write(tmp_path / "log")
    result = rocktok.check(log, replicates=200, rocks=())
    assert [f["name"] for f in result.findings if f["severity"] in ("warning", "problem")] == []
    assert result["special_tokens"]["severity"] == result["opening"]["severity"] == "ok"
