"""Whole commands before a damaged log: one line that names the file, or the same bytes.

A sample of what `tests/faults/commands.py` does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import campaign, commands


def quick(number: int) -> tuple[str, ...]:
    """One command in turn, without the report, which takes seconds."""
    names = [name for name in commands.COMMANDS if name != "report"]
    return (names[(number + number // commands.KINDS) % len(names)],)


def test_every_kind_of_file(tmp_path: Path) -> None:
    log = commands.write(tmp_path / "log")
    with campaign.quiet():
        outcome = commands.run(log, commands.faults(log, 30, seed=1), quick, tmp_path)
    assert outcome.wrong == []
    assert sum(outcome.counts.values()) == 30
    assert len({kind for kind, _, _ in outcome.counts}) == commands.KINDS
    assert len({name for _, name, _ in outcome.counts}) == len(commands.COMMANDS) - 1


@pytest.mark.long
def test_every_command_and_every_kind_of_file(tmp_path: Path) -> None:
    log = commands.write(tmp_path / "log")
    with campaign.quiet():
        faults = commands.faults(log, 80, seed=2)
        outcome = commands.run(log, faults, commands.in_turn, tmp_path)
    assert outcome.wrong == []


@pytest.mark.parametrize(
    ("answer", "may_skip", "judged"),
    [
        ((0, "a", ""), False, "the same bytes"),
        ((0, "b", ""), False, "ANOTHER ANSWER"),
        ((0, "b", "note: L/x: left out"), False, "ANOTHER ANSWER"),
        ((0, "b", "note: L/x: left out"), True, "left out, named"),
        ((0, "b", "note: L/y: left out"), True, "ANOTHER ANSWER"),
        ((1, "", "rocktok: L/x: damaged\n"), False, "refused"),
        ((1, "", "rocktok: L/y: damaged\n"), False, "UNNAMED"),
        ((1, "", "rocktok: L/x: damaged\nrocktok: more\n"), False, "NOT ONE LINE"),
        ((1, "", "Traceback (most recent call last):\nL/x"), False, "TRACEBACK"),
        ((2, "", "rocktok: L/x: damaged\n"), False, "EXIT 2"),
        ((-1, "", "traceback: KeyError('L/x')"), False, "CRASHED"),
    ],
)
def test_what_counts_as_wrong(answer: tuple[int, str, str], may_skip: bool, judged: str) -> None:
    assert commands.judge(answer, (0, "a", ""), "L/x", may_skip) == judged
