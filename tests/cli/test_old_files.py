"""Files of `rocktok.detect/1`, which knew no tested rocks, are still read as lists of rocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.inputs import load_rocks
from tests.paths import SAMPLE
from tests.processes import run_command

#: (token id, text, frequency, mean loss, persistent, retained) of some types of the sample.
TYPES = [(277, "So", 258, 1.97, 254, 185), (14, "-", 336, 1.35, 178, 138),
         (590, "Next", 88, 3.45, 84, 77)]  # fmt: skip


def _row(rank: int, type_: tuple[int, str, int, float, int, int], *, is_rock: bool) -> Any:
    token_id, token, frequency, mean, persistent, retained = type_
    ccr = retained / frequency
    return {
        "rank": rank, "token_id": token_id, "token": token, "frequency": frequency,
        "prompts": frequency, "mean_loss": mean, "rock_score": mean * frequency,
        "loss_share": mean * frequency / 6212, "coverage": 0.1 * rank, "persistent": persistent,
        "persistent_prompts": persistent, "persistence_lift": 1.0, "retained": retained,
        "retained_loss": mean * retained, "eta": 0.01, "eta_count": 1, "null_distance": 16,
        "ccr": ccr, "ccr_low": None, "ccr_high": None,
        "context_rock_score": mean * frequency * ccr, "rollout_frequency": None,
        "rollout_rock_score": None, "mean_log_ratio": None, "student_probability": None,
        "teacher_probability": None, "flags": [], "is_rock": is_rock,
    }  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """As the first version of `detect` wrote it: no rule, no tests, one mean loss to a type."""
    identity = rocktok.open(SAMPLE).identity()
    spread = {"median": 0.1, "p10": 0.0, "p90": 0.2}
    content = {
        "schema": "rocktok.detect/1",
        "log": {**identity, "table": "fixed", "pre": 8, "post": 500, "no_context": None,
                "rollout_step": None, "passes": 4, "embeddings": None},
        "params": {"pre": None, "post": None, "table": "auto", "context": "auto",
                   "quantile_pre": 0.8, "quantile_post": 0.8, "tau_pre": None, "tau_post": None,
                   "persistence": "high", "window": 8, "similarity": "surprisal",
                   "partners": "other-prompt", "gamma": 0.5, "eta": "auto", "top_k": 2,
                   "tau_r": None, "min_frequency": 1, "exclude_most_frequent": 0, "cap": 50000,
                   "exact": False, "seed": 0, "all_types": True},
        "thresholds": {"tau_pre": 0.13, "tau_post": 0.051, "tau_change": None, "ratio": 0.39},
        "totals": {"sequences": 256, "positions": 18685, "loss": 6212.0, "persistent": 3230,
                   "retained": 323, "unpaired_sequences": 0},
        "density": {"type": spread, "retained": spread, "sequences": 256},
        "tokens": [_row(rank + 1, one, is_rock=rank < 2) for rank, one in enumerate(TYPES)],
        "notes": [],
    }  # fmt: skip
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content))
    return path


def test_the_rocks(old: Path) -> None:
    vocab = rocktok.open(SAMPLE).vocab
    assert [vocab.text(token_id) for token_id, *_ in TYPES] == [text for _, text, *_ in TYPES]
    assert load_rocks(old, vocab.identity) == (14, 277)


@pytest.mark.parametrize(
    ("command", "options", "where"),
    [
        ("attribute", ("--replicates", 100), ("members", "rocks")),
        ("stagnation", ("--replicates", 100), ("members", "rocks")),
        ("controls", ("--kind", "frequency"), ("log", "rocks")),
    ],
)
def test_a_command_takes_them(
    command: str, options: tuple[Any, ...], where: tuple[str, str], old: Path
) -> None:
    call = (command, SAMPLE, "--rocks", old, *options, "-q", "--format", "json")
    code, printed, error = run_command(*call)
    assert (code, error) == (0, "")
    assert json.loads(printed)[where[0]][where[1]] == [14, 277]


def test_compare_ranks_them_by_what_they_were_ranked_by(old: Path) -> None:
    code, printed, error = run_command("compare", old, SAMPLE, "--format", "json", "-q")
    assert (code, error) == (0, "")
    found = json.loads(printed)
    assert [one["ranked_by"] for one in found["log"]] == ["context_rock_score", "score"]
    assert found["pairs"][0]["shared_count"] == 2
    ranks = {row["token_id"]: row["ranks"] for row in found["tokens"]}
    assert [ranks[277], ranks[14], ranks[590]] == [[1, 1], [2, 3], [None, 2]]
