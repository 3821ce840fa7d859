"""Every damaged log of `test_bad_input` before the commands that write files of its rows.

The line is that of the damage, whichever command meets it, and nothing is left behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import rocktok
from rocktok.errors import RocktokError
from tests.cli import test_bad_input as faults
from tests.processes import run_command as run

FAULTS = (
    faults.missing, faults.empty, faults.truncated, faults.truncated_by_hand,
    faults.flipped_bit_in_a_page, faults.flipped_bit_in_a_page_by_hand,
    faults.flipped_bit_in_the_footer, faults.newer_shard, faults.newer_run, faults.nan_loss,
    faults.infinite_loss, faults.negative_loss, faults.negative_token,
    faults.token_beyond_the_vocabulary, faults.unordered, faults.duplicate_row,
    faults.duplicate_shard, faults.listed_but_gone, faults.two_runs, faults.missing_column,
    faults.null_value,
)  # fmt: skip

#: Logs of a single step whose losses are damaged, or gone.
UNSEEN = (faults.flipped_bit_in_a_page_by_hand, faults.missing_column)


def rocks_of(log: Path, path: Path) -> Path:
    """A file of `detect` as it would be of this log before it was damaged: token 3 is a rock."""
    identity = {"vocab": None, "vocab_size": 50, "run_id": None, "shards": {}}
    steps = [0, 10]
    with suppress(RocktokError):
        opened = rocktok.open(log)
        identity = dict(opened.identity())
        steps = [one.step for one in opened.steps("fixed")]
    row = {"token_id": 3, "token": "t3", "is_rock": True, "loss_share": 0.1, "frequency": 9}
    content = {
        "schema": "rocktok.detect/3",
        "log": {
            **identity,
            "table": "fixed",
            "pre": steps[0] if steps[1:] else None,
            "post": steps[-1],
        },
        "params": {},
        "totals": {"positions": 480},
        "tokens": [row],
    }
    path.write_text(json.dumps(content))
    return path


def test_these_are_all_the_faults() -> None:
    (marks,) = (
        mark
        for mark in faults.test_damage_is_one_line_that_names_the_file.pytestmark  # type: ignore[attr-defined]
        if mark.args[0] == "damage"
    )
    assert list(FAULTS) == marks.args[1]


@pytest.mark.parametrize(
    "command",
    [
        "occurrences",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("export", "mask", "frequency")),
    ],
)
@pytest.mark.parametrize("damage", FAULTS, ids=lambda one: one.__name__)
def test_damage_is_the_same_line(
    damage: Callable[[Path], str], command: str, tmp_path: Path
) -> None:
    if damage in UNSEEN and command in ("occurrences", "mask"):
        pytest.skip("one step without losses to read: occurrences are refused, a mask is written")
    message = damage(tmp_path)
    log, rocks, output = tmp_path / "nowhere", tmp_path / "rocks.json", tmp_path / "out"
    words: tuple[object, ...] = (command, log, "-o", output)
    if command in ("mask", "frequency"):
        rocks_of(log, rocks)
        how = ("--format", "mask") if command == "mask" else ("--select", "frequency")
        words = ("weights", rocks, "--log", log, *how, "-o", output)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, printed, said = run(*words)  # type: ignore[arg-type]
    complaint = [line for line in said.splitlines() if not faults._is_note(line)]
    assert (code, printed, len(complaint)) == (1, "", 1)
    assert complaint[0].startswith(f"rocktok: {message}")
    assert message.endswith("CRC") or complaint[0] == f"rocktok: {message}"
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
