"""What the recorder says when it begins and ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rocktok.analyses.detect import tested
from rocktok.hooks import Recorder
from rocktok.hooks.fixed_set import FixedSet
from rocktok.hooks.words import MIN_PROMPTS, beginning, fewer_prompts, kept_text
from tests.recording import make_recorder, make_rollout, record_step


@pytest.mark.parametrize(
    ("settings", "options", "line"),
    [
        (
            {},
            {"last": 500, "at_start": True},
            "recording into runs/opd; rollouts every 10 steps; text of 256 prompts kept now, "
            "scored at steps 0, 100, 200, … 500 (6 in all)",
        ),
        (
            {"fixed_rollouts": 4, "fixed_every": 200},
            {"last": 500, "at_start": True},
            "recording into runs/opd; rollouts every 10 steps; text of 256 prompts (4 rollouts "
            "each) kept now, scored at steps 0, 200, 400, 500",
        ),
        (
            {},
            {"last": 60, "at_start": True},
            "recording into runs/opd; rollouts every 10 steps; text of 256 prompts kept now, "
            "scored at steps 0, 60; for curves with more steps set fixed_every=30 or less",
        ),
        (
            {},
            {"last": 60, "why_later": "the training data are a stream"},
            "recording into runs/opd; rollouts every 10 steps; text of 256 prompts kept during "
            "training (the training data are a stream), scored when complete, every "
            "100 steps and at step 60; that may be only one step, and persistence needs two: set "
            "fixed_every=30 or less, or fixed_at_start=True",
        ),
        (
            {"fixed_sequences": 0, "every": 50},
            {"last": 8},
            "recording into runs/opd; rollouts every 50 steps, only step 0 before "
            "max_steps=8: set every=4 or less; no kept text",
        ),
        (
            {"fixed_sequences": 0, "every": 1},
            {},
            "recording into runs/opd; rollouts every step; no kept text",
        ),
        (
            {"fixed_sequences": 0},
            {"first": 401, "last": 405},
            "recording into runs/opd (attempt 0, from step 401); rollouts every 10 steps, none "
            "before max_steps=405: set every=2 or less; no kept text",
        ),
    ],
)
def test_the_first_line(settings: dict[str, Any], options: dict[str, Any], line: str) -> None:
    recorder = Recorder("runs/opd", **settings)
    recorder.attempt = 0
    recorder.fixed.limit = recorder.fixed_sequences
    assert beginning(recorder, **options) == line


def test_the_first_line_of_a_resumed_attempt() -> None:
    recorder = Recorder("runs/opd", fixed_every=20)
    recorder.attempt = 2
    recorder.fixed.limit = 256
    recorder.fixed.complete(0)
    assert beginning(recorder, first=50, last=100) == (
        "recording into runs/opd (attempt 2, from step 50); rollouts every 10 steps; text of 256 "
        "prompts kept by an earlier attempt, scored at steps 60, 80, 100"
    )


def test_too_little_text_is_foretold() -> None:
    recorder = Recorder("runs/opd")
    recorder.attempt, recorder.most_tokens = 0, 64
    recorder.fixed.limit = recorder.fixed_sequences
    assert beginning(recorder, last=500, at_start=True) == (
        "recording into runs/opd; rollouts every 10 steps; text of 256 prompts kept now, scored "
        "at steps 0, 100, 200, … 500 (6 in all); at most 16,384 positions are kept, 40,000 are "
        "advised: set fixed_sequences=625 or more"
    )
    recorder.most_tokens = 157
    assert "advised" not in beginning(recorder, last=500, at_start=True)


def kept(prompts: int, length: int) -> FixedSet:
    fixed = FixedSet(prompts, every=1)
    fixed.accept([make_rollout(i, prompt=i, length=length + i) for i in range(prompts)])
    fixed.complete(0)
    return fixed


def test_kept_text_says_how_many_types_can_be_tested() -> None:
    # Lengths 3 to 8 of ids from 0 up: 0 to 3 stand in five prompts or more, 4 in four.
    recorder = Recorder("runs/opd")
    recorder.fixed = fixed = kept(6, 3)
    assert fixed.size(5) == (33, 4)
    assert kept_text(recorder) == (
        "kept text of 6 prompts: 33 positions; at most 4 types can be tested, those in 5 prompts "
        "or more; 40,000 positions are advised: set fixed_sequences=7273 or more"
    )
    fixed.kept[0].loss_mask[:] = 0
    assert fixed.size(5) == (30, 4)
    fixed.kept[1].loss_mask[0] = 0
    assert fixed.size(5) == (29, 3)
    # The first line has said it.
    recorder.most_tokens = 64
    assert kept_text(recorder).endswith("those in 5 prompts or more")
    recorder.most_tokens, recorder.fixed = 9_000, kept(5, 8_000)
    assert kept_text(recorder).endswith("those in 5 prompts or more")
    assert MIN_PROMPTS == tested.MIN_PROMPTS


def test_a_resumed_attempt_says_how_much_text_there_is() -> None:
    recorder = Recorder("runs/opd", fixed_sequences=6)
    recorder.attempt, recorder.fixed = 1, kept(6, 3)
    assert (
        "text of 6 prompts kept by an earlier attempt (33 positions; at most 4 types can be "
        "tested, those in 5 prompts or more), scored at once and every 100 steps"
    ) in beginning(recorder, first=50)


def test_a_recorder_says_that_it_begins_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "my log"
    rec = make_recorder(log, fixed_sequences=0)
    rec.start()
    record_step(rec, 0)
    record_step(rec, 1)
    rec.drop(2, "no memory", rows=7)
    with pytest.warns(match="no memory"):
        rec.finish_step(2)
    rec.close()
    assert capsys.readouterr().err.splitlines() == [
        f"rocktok: recording into {log}; rollouts every step; no kept text",
        f"rocktok: recorded into {log}: 2 steps of rollouts, 0 scorings of kept text; dropped: 7 "
        f"rows of 1 step; next: rocktok info '{log}'",
    ]


def test_scorings_at_two_steps_lead_to_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rec = make_recorder(tmp_path)
    rec.start()
    for step in (0, 10):
        record_step(rec, step, table="fixed")
        rec.finish_step(step, table="fixed")
    rec.close(final=False)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"rocktok: stopped recording into {tmp_path}: 2 steps of rollouts, 2 scorings of kept text "
        f"(steps 0 to 10); nothing dropped; next: rocktok report {tmp_path} -o report"
    )


def test_a_quiet_recorder_and_other_ranks_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rec = make_recorder(tmp_path, quiet=True)
    rec.start()
    rec.close()
    rec = make_recorder(tmp_path)
    rec.rank = 1
    rec.say("anything")
    assert capsys.readouterr().err == ""


def test_fewer_prompts() -> None:
    assert fewer_prompts(1, 256) == (
        "kept text of 1 prompt; training had no more, and fixed_sequences=256 asks for more"
    )
