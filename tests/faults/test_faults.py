"""A damaged log is refused by name, or answers as if it were whole: never a wrong number.

A sample of what `tests/faults/campaign.py` does in full.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from rocktok import schema
from tests.faults import campaign


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return campaign.write_small(tmp_path_factory.mktemp("faults") / "log")


def check(log: Path, faults: Iterable[campaign.Fault]) -> campaign.Outcome:
    with campaign.quiet():
        outcome = campaign.run(log, faults)
    assert outcome.wrong == []
    return outcome


def sample(faults: Iterable[campaign.Fault], count: int, seed: int) -> list[campaign.Fault]:
    return random.Random(seed).sample(list(faults), count)


def test_every_file_that_is_gone_is_missed_by_name(log: Path) -> None:
    outcome = check(log, campaign.removals(log))
    files = [path for path in log.rglob("*") if path.is_file()]
    # Texts of tokens are no part of the rows.
    assert outcome.counts.pop(("removed", "scan", "the same bytes")) == 1
    assert {result for _, _, result in outcome.counts} == {"refused"}
    assert outcome.counts["removed", "detect", "refused"] == len(files)


def test_bits_of_json_files(log: Path) -> None:
    outcome = check(log, sample(campaign.json_flips(log), 40, seed=1))
    assert {result for _, _, result in outcome.counts} == {"refused"}


def test_bits_of_page_headers(log: Path) -> None:
    outcome = check(log, sample(campaign.header_flips(log), 12, seed=2))
    assert outcome.counts["page header", "info --verify", "refused"] == 12


def test_bits_of_page_headers_of_the_tables_beside_fixed(log: Path) -> None:
    beside = [f for f in campaign.header_flips(log) if f.path.startswith(schema.BESIDE_FIXED)]
    with campaign.quiet():
        faults = sample(beside, 40, seed=8)
        outcome = campaign.run(log, faults, ["info --verify", "scan"])
    assert outcome.wrong == []
    assert outcome.counts["page header", "info --verify", "refused"] == 40
    assert outcome.counts["page header", "scan", "refused"] == 40


def test_random_damage(log: Path) -> None:
    outcome = check(log, campaign.mutations(log, 12, seed=3))
    refused = [n for (_, name, result), n in outcome.counts.items() if name == "info --verify"]
    assert sum(refused) == 12
    assert {r for _, name, r in outcome.counts if name == "info --verify"} == {"refused"}


def test_bits_of_page_headers_of_a_log_by_hand(tmp_path: Path) -> None:
    by_hand = campaign.write_small_by_hand(tmp_path / "log")
    check(by_hand, sample(campaign.header_flips(by_hand), 8, seed=4))


@pytest.mark.exhaustive
@pytest.mark.long
def test_more_of_each(log: Path) -> None:
    check(log, sample(campaign.json_flips(log), 150, seed=5))
    check(log, sample(campaign.header_flips(log), 60, seed=6))
    check(log, campaign.mutations(log, 60, seed=7))
