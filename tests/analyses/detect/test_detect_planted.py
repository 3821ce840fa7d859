"""Does `detect` find planted rocks, and nothing where there is nothing? planted.py has the logs.

**F1 at the default options.** A log holds exactly as many planted rocks as `top_k` is by default
(100), so the default call can be exactly right, and precision and recall are equal wherever 100
types score above 0. That fixes the size of the set, as any F1 of a ranking must; what is tested is
which 100 of some 3,200 types it is. Besides, the scores themselves are compared: a decoy's, at the
median, lies below those of the rare rocks.

At the level "hard" the errors that are left are decoys: of several hundred persistent occurrences
a few per cent are retained by chance, and as R_ctx weighs by volume that can outscore a type that
has but 20, all of them retained. The level was set where the goal is just met, and is no more than
that: with decoys that spike in 30% of their occurrences instead of 25%, and rare rocks used 9 to 18
times instead of 10 to 20, the mean F1 is 0.94. At the level "beyond" (two windows of a phrase then
share half of their text, which is γ) F1 is printed, and held to be better than the plain score's
only.

**Null logs.** Retained occurrences of a log are no independent trials (one null of 1,000 draws, two
windows that are alike are both retained, rollouts share text), so the standard error is that of
logs, which are independent.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from tests import planted

ROCK_KINDS = ("common", "ending", "rare")


def tokens(path: Path, **options: Any) -> list[dict[str, Any]]:
    """Rows of the types, rocks only unless `all_types`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = rocktok.detect(rocktok.open(str(path)), **options)
    rows: list[dict[str, Any]] = json.loads(result.to_json())["tokens"]
    return rows


def f1(found: set[int], real: set[int]) -> float:
    return 2 * len(found & real) / (len(found) + len(real))


class Finding:
    """What the two scores make of one planted log, each as the first 100."""

    def __init__(self, log: planted.PlantedLog, path: Path) -> None:
        log.write(path)
        self.kinds = log.kinds
        self.real = {token for kind in ROCK_KINDS for token in log.kinds[kind]}
        self.rows = {
            "context": tokens(path, rule="top-k"),
            "plain": tokens(path, rule="top-k", context="off"),
        }
        self.rocks = {by: {row["token_id"] for row in rows} for by, rows in self.rows.items()}
        self.f1 = {by: f1(rocks, self.real) for by, rocks in self.rocks.items()}

    def number(self, by: str, kind: str) -> int:
        """How many types of a kind are called rocks."""
        return len(self.rocks[by] & set(self.kinds[kind]))


def report(level: str, findings: list[Finding]) -> str:
    """The table that is printed: F1, and what of each kind was called a rock."""
    lines = [f"{level}: {len(findings)} logs, mean number of types among the 100 rocks"]
    kinds = [*findings[0].kinds]
    lines.append(
        " " * 16 + "".join(f"{kind:>9}" for kind in [*kinds, "other"]) + "       F1 (least)"
    )
    lines.append(
        f"{'there are':<16}" + "".join(f"{len(findings[0].kinds[kind]):>9}" for kind in kinds)
    )
    for by in ("context", "plain"):
        numbers = np.array([[one.number(by, kind) for kind in kinds] for one in findings])
        other = np.mean([len(one.rocks[by]) for one in findings]) - numbers.sum(1).mean()
        scores = [one.f1[by] for one in findings]
        lines.append(
            f"{by + ' score':<16}"
            + "".join(f"{number:9.1f}" for number in [*numbers.mean(0), other])
            + f"    {np.mean(scores):.3f} ({min(scores):.2f})"
        )
    return "\n".join(lines)


def test_one_planted_log(tmp_path: Path) -> None:
    finding = Finding(planted.planted_log(0, "easy"), tmp_path / "log")
    assert finding.f1["context"] >= 0.95
    assert finding.f1["plain"] < 0.6
    assert finding.number("plain", "decoy") == 10


@pytest.mark.exhaustive
@pytest.mark.long
@pytest.mark.parametrize(("level", "logs"), [("easy", 4), ("hard", 20)])
def test_planted_rocks_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], level: str, logs: int
) -> None:
    """What is found at "hard" in twenty logs is not harder to find at "easy": a few show that."""
    findings = [
        Finding(planted.planted_log(seed, level), tmp_path / str(seed)) for seed in range(logs)
    ]
    with capsys.disabled():
        print("\n" + report(level, findings))
    scores = {by: [one.f1[by] for one in findings] for by in ("context", "plain")}
    assert np.mean(scores["context"]) >= 0.95
    assert min(scores["context"]) >= 0.9
    assert max(scores["plain"]) < 0.6
    for one in findings:
        # What is hard in large numbers is always found; what was learned never is.
        assert one.number("context", "common") == one.number("context", "ending") == 3
        assert one.number("context", "learned") == 0
        assert one.number("plain", "decoy") == 10
        # Decoys that got in stand at the end.
        rare = [r["rank"] for r in one.rows["context"] if r["token_id"] in one.kinds["rare"]]
        decoys = [r["rank"] for r in one.rows["context"] if r["token_id"] in one.kinds["decoy"]]
        assert not decoys or np.median(decoys) > np.median(rare)
    # Types that are hard now and then are left alone.
    assert np.mean([one.number("context", "extreme") for one in findings]) < 1


@pytest.mark.exhaustive
@pytest.mark.long
def test_rocks_that_are_beyond_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding(planted.planted_log(seed, "beyond"), tmp_path / str(seed)) for seed in range(3)
    ]
    with capsys.disabled():
        print("\n" + report("beyond", findings))
    for one in findings:
        assert one.f1["context"] > one.f1["plain"] + 0.3


# --- null logs ---------------------------------------------------------------------------------


def retention(tmp_path: Path, logs: int, options: dict[str, Any], **how: Any) -> dict[str, Any]:
    """Share retained of all persistent occurrences, and its standard error, for each group."""
    counts: dict[str, list[tuple[int, int]]] = {}
    for seed in range(logs):
        log = planted.null_log(seed, **how)
        found = tokens(log.write(tmp_path / str(seed)), seed=seed, all_types=True, **options)
        rows = {row["token_id"]: row for row in found}
        for group, types in log.kinds.items():
            of_group = [rows[token] for token in types]
            if group != "frequent":
                assert {row["persistent"] for row in of_group} == {int(group)}
            assert all(row["retained"] is not None for row in of_group)
            kept = sum(row["retained"] for row in of_group)
            counts.setdefault(group, []).append((kept, sum(row["persistent"] for row in of_group)))
    rates = {}
    for group, pairs in counts.items():
        kept_of_log, of_log = np.array(pairs).T
        rate = kept_of_log.sum() / of_log.sum()
        deviations = kept_of_log - rate * of_log
        error = np.sqrt(logs / (logs - 1) * (deviations**2).sum()) / of_log.sum()
        rates[group] = (rate, error)
    return rates


@pytest.mark.exhaustive
@pytest.mark.long
@pytest.mark.parametrize("share", [0.0, 0.7])
@pytest.mark.parametrize(
    ("phrases", "options"), [(0, {}), (25, {}), (0, {"similarity": "bag"})], ids=str
)
def test_nothing_is_retained_of_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    share: float,
    phrases: int,
    options: dict[str, Any],
) -> None:
    """At most 5% of persistent occurrences, however many a type has, and whatever recurs."""
    rates = retention(tmp_path, 6, options, share=share, phrases=phrases)
    with capsys.disabled():
        print(
            f"\nnull, {share:.0%} shared, {phrases} phrases, {options or 'default'}: retained ",
            end="",
        )
        print(", ".join(f"{n}: {rate:.2%} ± {e:.2%}" for n, (rate, e) in rates.items()), end=" ")
    for group, (rate, error) in rates.items():
        assert rate <= 0.05 + 2 * error, group
        assert error <= 0.015, group  # or the line above would forgive too much


@pytest.mark.exhaustive
@pytest.mark.long
def test_the_papers_letter_retains_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Why partners are from other prompts: with every other occurrence, copies are partners."""
    rates = retention(tmp_path, 3, {"partners": "all"}, share=0.7)
    with capsys.disabled():
        print("\nnull, 70% shared, partners 'all': retained ", end="")
        print(", ".join(f"{n}: {rate:.1%}" for n, (rate, _) in rates.items()), end=" ")
    assert all(rate > 0.4 for rate, _ in rates.values())
