"""The committed log of the language model: whole, large enough, and what its page says of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import rocktok
from tests.paths import ROOT
from tests.processes import run_command

SMOL = ROOT / "sample_data" / "smol"


def test_it_is_whole_and_large_enough() -> None:
    log = rocktok.open(SMOL)
    steps = log.complete_steps("fixed")
    assert steps == [0, 40, 80, 120]
    assert log.complete_steps("alternatives") == [0, 120]
    assert log.complete_steps("contexts") == [0]
    means = []
    for step in steps:
        parts = [part.columns["loss"] for part in log.scan("fixed", ["loss"], [step])]
        loss = np.concatenate(parts).astype(np.float64)
        assert len(loss) >= 40_000
        means.append(float(loss.mean()))
    assert means == sorted(means, reverse=True)
    figures = json.loads(SMOL.with_suffix(".json").read_text())
    assert [round(mean, 4) for mean in means] == [
        figures["kept_text"][str(step)]["mean_loss"] for step in steps
    ]
    assert sum(path.stat().st_size for path in SMOL.rglob("*") if path.is_file()) <= 16_000_000


def test_its_prompts_are_of_three_domains() -> None:
    texts = pd.read_parquet(SMOL / "sequences").drop_duplicates("prompt_id")
    assert set(texts["domain"]) == {"math", "code", "general"}
    assert texts["domain"].value_counts().min() >= 250


@pytest.mark.long
def test_every_row_of_it_can_be_read() -> None:
    code, printed, error = run_command("info", SMOL, "--verify")
    assert code == 0, error
    assert "nothing is damaged" in printed
