"""Rocks that a run finds by itself: when they are looked for, from when on they count, and what
the log and the next attempt know of them.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import rocktok
from rocktok.errors import HookError, RocktokWarning
from rocktok.hooks import LiveWeights, Recorder
from rocktok.hooks import live_weights as live
from rocktok.hooks.live_weights import Answer, LiveSearch
from rocktok.hooks.trl import attach
from rocktok.inputs import load_rocks
from rocktok.log.manifest import WeightsInForce
from tests.paths import SAMPLE
from tests.recording import manifest
from tests.trl_models import make_trainer, read_table

#: Types that the stand-in for `rocktok detect` finds.
FOUND = tuple(range(0, 320, 2))


class Detect:
    """Stands in for the process: answers when it is asked for the third time."""

    answers: ClassVar[list[Answer]] = []
    asked: ClassVar[list[Any]] = []

    def __init__(self, *arguments: Any) -> None:
        self.asked.append(arguments)
        self.calls = 0

    def answer(self) -> Answer | None:
        self.calls += 1
        return self.answers.pop(0) if self.calls == 3 else None

    def kill(self) -> None:
        self.asked.append("killed")


@pytest.fixture(autouse=True)
def detect(monkeypatch: pytest.MonkeyPatch) -> type[Detect]:
    monkeypatch.setattr(Detect, "answers", [Answer(FOUND)])
    monkeypatch.setattr(Detect, "asked", [])
    monkeypatch.setattr(live, "_Detect", Detect)
    return Detect


def alone(value: Any) -> list[Any]:
    return [value]


def test_a_search_waits_for_two_scorings_and_for_the_disk(detect: type[Detect]) -> None:
    search, written = LiveSearch(LiveWeights(0.5, step=4), "log"), threading.Event()
    for step in (0, 2):
        search.scored(step, 0, lambda: written)
        assert search.advance(step, alone) == (None, None)
    assert detect.asked == []
    search.scored(4, 0, lambda: written)
    search.advance(4, alone)
    assert detect.asked == []
    written.set()
    search.advance(5, alone)
    assert detect.asked == [("log", 4, ())]
    assert [search.advance(step, alone)[0] for step in (6, 7)] == [None, None]
    begun, answer = search.advance(8, alone)
    assert answer == Answer(FOUND)
    assert begun == search.in_force
    assert begun is not None and (begun.from_step, begun.found_at) == (8, 4)
    assert search.at(7) is None
    weights = search.at(8)
    assert weights is not None and (weights.token_ids, weights.weight) == (FOUND, 0.5)
    assert weights.sha256 == begun.sha256
    # Found once, they stay.
    search.scored(10, 0, lambda: written)
    assert search.advance(10, alone) == (None, None)
    assert len(detect.asked) == 1


def test_no_rocks_yet_is_looked_at_again_and_a_fault_is_not(detect: type[Detect]) -> None:
    detect.answers[:] = [Answer(), Answer(fault="exit code 1")]
    search = LiveSearch(LiveWeights(), "log")
    for first in (10, 20, 30):
        search.scored(first, 0, lambda: None)
        for step in range(first, first + 4):
            assert search.advance(step, alone)[0] is None
    assert [asked[1] for asked in detect.asked] == [10, 20]


def test_ranks_begin_together_whoever_is_late(detect: type[Detect]) -> None:
    """Rank 0 looks once the rows of all ranks are on disk, and tells the others what it found."""
    ranks = [LiveSearch(LiveWeights(), "log", rank=rank) for rank in (0, 1)]
    written = [threading.Event(), threading.Event()]
    written[0].set()
    for search, event in zip(ranks, written, strict=True):
        search.scored(2, 0, lambda event=event: event)

    def advance(step: int) -> list[WeightsInForce | None]:
        """Both ranks, each of which learns what both have to say."""
        values: list[Any] = []
        if ranks[0]._state == "writing":
            values = [event.is_set() for event in written]

        def gather(value: Any) -> list[Any]:
            # Of an answer only rank 0's is looked at, and it comes first.
            if len(values) < 2:
                values.append(value)
            return values

        return [search.advance(step, gather)[0] for search in ranks]

    assert advance(2) == [None, None]
    assert detect.asked == []
    written[1].set()
    assert advance(3) == [None, None]
    assert len(detect.asked) == 1
    assert [advance(step) for step in (4, 5)] == [[None, None]] * 2
    one, other = advance(6)
    assert one == other
    assert one is not None and one.from_step == 6


def test_the_end_of_a_run_ends_the_search(detect: type[Detect]) -> None:
    search = LiveSearch(LiveWeights(), "log")
    search.scored(2, 0, lambda: None)
    search.advance(2, alone)
    search.close()
    assert detect.asked[-1] == "killed"
    assert search.advance(3, alone) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"weight": -1.0}, "LiveWeights: weight is -1; it must be 0 or more"),
        ({"step": 0}, "LiveWeights: step must be an integer of at least 1, not 0"),
        ({"options": "--fdr"}, "LiveWeights: options must be a sequence of words"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(HookError, match=why):
        LiveWeights(**arguments)


def test_they_need_kept_text(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="live_weights are found on kept text"):
        Recorder(tmp_path, fixed_sequences=0, live_weights=LiveWeights())


@pytest.mark.parametrize("options", [("--similarity", "hidden"), ("--similarity=hidden",)])
def test_hidden_states_that_are_not_recorded_are_refused_at_once(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """Not at the step at which they are looked for."""
    with pytest.raises(HookError, match="which contexts=False does not record; leave one of them"):
        Recorder(tmp_path, contexts=False, live_weights=LiveWeights(options=options))
    Recorder(tmp_path, contexts=False, live_weights=LiveWeights())
    Recorder(tmp_path, live_weights=LiveWeights(options=options))


# --- in a training -----------------------------------------------------------------------------


def train(folder: Path, resume: str | None = None, **options: Any) -> Any:
    settings = {"max_steps": 9, "logging_steps": 1, "save_strategy": "steps", "save_steps": 4}
    trainer = make_trainer(folder, **{**settings, **options})
    recorder = Recorder(
        folder / "log",
        every=1,
        fixed_sequences=4,
        fixed_every=2,
        live_weights=LiveWeights(0.25, step=1),
        quiet=True,
    )
    with attach(trainer, recorder):
        trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights_of(folder: Path, attempt: int) -> Any:
    return manifest(folder / "log", attempt=attempt)["weights"]


def test_rocks_are_weighted_from_the_step_that_the_log_names(tmp_path: Path) -> None:
    trainer = train(tmp_path)
    recorded = weights_of(tmp_path, 0)
    begin = recorded["from_step"]
    assert recorded["found_at"] == 2 and 4 < begin < 9
    assert recorded["token_ids"] == list(FOUND)
    rows = read_table(tmp_path / "log")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    for step, loss in enumerate(losses):
        mine = rows["step"] == step
        weight = np.where((rows["token_id"][mine] % 2 == 0) & (step >= begin), 0.25, 1.0)
        assert loss == pytest.approx((weight * rows["loss"][mine]).mean(), rel=1e-4), step
    info = rocktok.info(tmp_path / "log")
    assert not info.mismatches
    assert f"(live, found at step 2) weighted 0.25 in the trained loss from step {begin}" in repr(
        info
    )
    assert rocktok.open(tmp_path / "log").facts.weights == {
        "select": "live",
        "weight": 0.25,
        "step": 1,
    }


@pytest.mark.long
def test_a_resumed_run_weights_the_same_rocks_from_the_same_step(
    tmp_path: Path, detect: type[Detect]
) -> None:
    train(tmp_path)
    recorded = weights_of(tmp_path, 0)
    train(tmp_path, str(tmp_path / "trainer/checkpoint-4"))
    assert weights_of(tmp_path, 1) == recorded
    assert len(detect.asked) == 1


def test_weights_found_on_rows_that_are_void_are_not_inherited(tmp_path: Path) -> None:
    from rocktok.files import place
    from rocktok.log import LogWriter

    found = WeightsInForce(9, 6, "f" * 64, "live", 0.5, 0, 0, (1, 2))
    writer = LogWriter(tmp_path, run={"vocab_size": 9})
    writer.note_weights(found)
    writer.close(final=False)
    assert live.inherit_weights(place(tmp_path), 7) == found
    assert live.inherit_weights(place(tmp_path), 6) is None
    LogWriter(tmp_path, run={"vocab_size": 9}, resume_step=4).close(final=False)
    assert live.inherit_weights(place(tmp_path), 8) is None


def test_a_search_that_fails_is_warned_of_and_training_goes_on(
    tmp_path: Path, detect: type[Detect]
) -> None:
    detect.answers[:] = [Answer(fault="the log is damaged")]
    with pytest.warns(RocktokWarning, match="rocks could not be looked for: the log is damaged"):
        train(tmp_path)
    assert weights_of(tmp_path, 0) is None


@pytest.mark.long
def test_the_process_finds_what_detect_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    last = rocktok.open(SAMPLE).complete_steps("fixed")[-1]
    process = live._Detect(SAMPLE, last, ("--no-replication",))
    assert process._process is not None
    process._process.wait(600)
    answer = process.answer()
    found = rocktok.detect(SAMPLE, replication=False)
    (tmp_path / "detect.json").write_text(found.to_json())
    assert answer == Answer(load_rocks(tmp_path / "detect.json"))
    # The sample has no contexts/: windows of its text are compared, and a wish for more is a fault.
    assert "contexts" not in rocktok.open(SAMPLE).tables() and answer.token_ids
    hidden = live._Detect(SAMPLE, last, ("--similarity", "hidden"))
    assert hidden._process is not None
    hidden._process.wait(600)
    lacking = hidden.answer()
    assert lacking is not None and "has no contexts/ table" in (lacking.fault or "")
    bad = live._Detect(tmp_path / "none", 1, ())
    assert bad._process is not None
    bad._process.wait(600)
    fault = bad.answer()
    assert fault is not None and fault.fault is not None and "no such directory" in fault.fault
