"""Context consistency of types too frequent to be judged whole: a sample, and its interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.analyses.detect import context_passes as contexts
from rocktok.analyses.detect.compared import Windows
from rocktok.analyses.detect.context import Context, ContextRule, Partners, share_interval
from rocktok.analyses.detect.similarity import Similarity
from rocktok.engine.passes import Engine
from rocktok.errors import UsageError
from rocktok.hashing import hash_rows
from rocktok.log import LogWriter


def population(rng: np.random.Generator, count: int, recurring: float) -> dict[str, np.ndarray]:
    """Persistent occurrences of one type: some in one of 400 contexts, more or less altered."""
    window_MK = rng.integers(0, 400, (count, 8))
    alike = rng.random(count) < recurring
    template_TK = rng.integers(0, 400, (400, 8))
    copy_CK = template_TK[np.minimum(rng.zipf(1.2, int(alike.sum())) - 1, 399)]
    altered = rng.random(copy_CK.shape) < rng.random((len(copy_CK), 1)) * 0.7
    window_MK[alike] = np.where(altered, window_MK[alike], copy_CK)
    sequence = np.arange(count)
    return {
        "window": window_MK.astype(np.int32),
        "sequence": sequence,
        "prompt": (sequence // 3).astype(np.uint64),
        "token": np.zeros(count, dtype=np.int32),
        "loss": rng.exponential(1.0, count).astype(np.float32),
        "position": np.zeros(count, dtype=np.int32),
        "hash": hash_rows(0, sequence),
    }


def rule_and_null(rng: np.random.Generator, eta: Any) -> tuple[ContextRule, Windows]:
    null = Windows(
        rng.integers(0, 400, (1_000, 8)).astype(np.int32),
        np.arange(1_000, dtype=np.uint64) + np.uint64(2**63),
    )
    return ContextRule(Similarity("bag", 0.5, 8, np.ones(400)), "other-prompt", eta), null


@pytest.mark.parametrize("eta", ["auto", 0.01])
def test_the_interval_covers_what_judging_all_finds(eta: Any) -> None:
    """Samples of one population after another: each compared with all partners."""
    covered = tries = 0
    for seed in range(4):
        rng = np.random.default_rng([seed, 1])
        rows = population(rng, 4_000, rng.uniform(0.2, 0.9))
        rule, null = rule_and_null(rng, eta)
        whole = rule.judge(rows, (null, 16) if eta == "auto" else None)
        everyone = rule.windows(rows)
        own, of_null = rule._count(everyone, everyone), rule._count(null, everyone)
        for draw in range(100):
            rows["hash"] = hash_rows(draw, rows["sequence"])
            sample = np.sort(np.argsort(rows["hash"])[:300])
            part = Partners(own.similar_M[sample], own.partners_M[sample])
            picked = {name: values[sample] for name, values in rows.items()}
            found = rule.conclude(picked, 4_000, part, None if eta != "auto" else of_null, 16)
            assert found.sampled
            assert found.interval is not None
            low, high = found.interval
            covered += low <= whole.share <= high
            assert high - low < 0.12
            tries += 1
    # Of 400 tries at 95%, 365 is 3.4 standard deviations below what is promised.
    assert covered >= 365


def test_the_interval_ends_where_shares_do() -> None:
    for hits, share in ((0, 0.0), (300, 1.0)):
        low, high = share_interval(Context(9_000, 300, 9, True, hits))
        assert low <= share <= high
        assert 0 <= low < high <= 1
        assert 0.005 < high - low < 0.02
    low, high = share_interval(Context(301, 300, 9, True, 150))
    assert high - low < 0.01


def recurring_log(path: Path, sequences: int = 400) -> Path:
    """Token 1 is hard everywhere; in every other sequence it stands in one of eight contexts."""
    rng = np.random.default_rng(4)
    template_TK = rng.integers(2, 300, (8, 20))
    token_SP = rng.integers(2, 300, (sequences, 20))
    token_SP[::2] = template_TK[rng.integers(0, 8, len(token_SP[::2]))]
    token_SP[:, [5, 12]] = 1
    hard_SP = token_SP < 3
    with LogWriter(path, run={"vocab_size": 300}) as writer:
        writer.write(
            {
                "sequence_id": np.arange(sequences),
                "step": 0,
                "num_tokens": 20,
                "prompt_id": [f"p{i // 2}" for i in range(sequences)],
            },
            table="sequences",
        )
        for step in (0, 10):
            noise_SP = rng.random((sequences, 20))
            for part in np.array_split(np.arange(sequences), 4):
                writer.write(
                    {
                        "step": step,
                        "sequence_id": np.repeat(part, 20),
                        "position": np.tile(np.arange(20), len(part)),
                        "token_id": token_SP[part].ravel(),
                        "loss": np.where(hard_SP[part], 2 + noise_SP[part], 0.1).ravel(),
                    },
                    table="fixed",
                )
            writer.finish_step(step, "fixed")
            writer.flush()
    return path


def one(path: Path, **options: Any) -> dict[str, Any]:
    result = rocktok.detect(rocktok.open(path), all_types=True, **options)
    return next(row for row in result.tokens if row["token_id"] == 1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("partners", "eta"),
    [
        ("other-prompt", "auto"),
        ("other-sequence", 0.04),
        *(
            pytest.param(*rest, marks=pytest.mark.long)
            for rest in (("other-prompt", 0.04), ("other-sequence", "auto"),
                         ("all", "auto"), ("all", 0.04))
        ),
    ],
)  # fmt: skip
def test_a_sample_of_a_frequent_type(tmp_path: Path, partners: str, eta: Any) -> None:
    path = recurring_log(tmp_path / "log")
    whole = one(path, partners=partners, eta=eta)
    sample = one(path, partners=partners, eta=eta, cap=200)
    assert whole["persistent"] == sample["persistent"] == 800
    assert "sampled" not in whole["flags"]
    assert whole["ccr_low"] is None
    assert "sampled" in sample["flags"]
    # Rates and counts are over all partners, so the null's threshold is the same.
    assert (sample["eta"], sample["eta_count"]) == (whole["eta"], whole["eta_count"])
    assert 0.3 < whole["ccr"] < 0.9
    assert sample["ccr_low"] <= whole["ccr"] <= sample["ccr_high"]
    assert sample["ccr_low"] < sample["ccr"] < sample["ccr_high"]
    assert one(path, partners=partners, eta=eta, cap=200, exact=True) == whole


def test_the_other_numbers_of_a_sample(tmp_path: Path) -> None:
    path = recurring_log(tmp_path / "log")
    whole, part = (rocktok.detect(rocktok.open(path), top_k=1, cap=cap) for cap in (800, 400))
    assert part.log["passes"] == whole.log["passes"] + 1
    a, b = whole.rocks[0], part.rocks[0]
    assert b["retained_loss"] == pytest.approx(a["retained_loss"], rel=0.1)
    assert b["retained"] == pytest.approx(a["retained"], rel=0.1)
    assert b["context_rock_score"] == pytest.approx(b["rock_score"] * b["ccr"])
    assert part.density["type"] == whole.density["type"]
    # Each persistent occurrence of a sampled type counts as the share that is retained.
    share = b["ccr"] * b["frequency"] / b["persistent"]
    assert part.density["retained"]["median"] == pytest.approx(share * 2 / 20, rel=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("eta", ["auto", 0.04])
def test_rounds_and_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eta: Any
) -> None:
    path = recurring_log(tmp_path / "log")

    def answer(jobs: int, **options: Any) -> str:
        options = {"cap": 200, "eta": eta, "quantile_pre": 0.5, "all_types": True, **options}
        with Engine(jobs) as engine:
            log = rocktok.open(path)
            result = rocktok.detect(log, engine=engine, quantile_post=0.5, **options)
        result.log.pop("passes")
        return result.to_json()

    in_one_go = answer(1)
    monkeypatch.setattr("rocktok.log.tasks.TASK_ROWS", 500)
    monkeypatch.setattr(contexts, "ROUND_WINDOWS", 300)
    assert answer(1) == answer(3) == in_one_go
    rocks = answer(2, all_types=False, top_k=3)
    monkeypatch.setattr(contexts, "ROUND_WINDOWS", 1 << 22)
    assert answer(1, all_types=False, top_k=3) == rocks


def test_a_cap_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cap is 99; it must be 100 or more"):
        rocktok.detect(rocktok.open(recurring_log(tmp_path / "log")), cap=99)
