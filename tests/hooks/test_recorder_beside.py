"""What is recorded beside kept text: likeliest tokens, and sketches, once and with their step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok import schema
from rocktok.errors import HookError, RocktokWarning
from rocktok.hooks import Recorder
from rocktok.hooks import sketching as sketching_module
from rocktok.hooks.arguments import COLUMN_PRESETS, DEFAULT_COLUMNS
from rocktok.hooks.contexts import BITS
from rocktok.log import LogWriter
from tests.hooks.test_recorder import start_ranks
from tests.processes import LIMIT
from tests.recording import make_recorder, make_rollout, manifest, rows_of

TERMINAL = {"student": [2], "teacher": [2, 7]}
BESIDE = ["student_ids", "student_probs", "teacher_ids", "teacher_probs"]


def alternatives(length: int = 3, likeliest: float = 0.5) -> dict[str, Any]:
    ids = np.tile(np.array([4, 1], np.int32), (length, 1))
    probabilities = np.tile(np.array([likeliest, 0.25], np.float32), (length, 1))
    return dict(zip(BESIDE, (ids, probabilities, ids[:, ::-1], probabilities), strict=True))


def begin(log: Path, sequences: int = 2, resume_step: int = 0, **options: Any) -> Recorder:
    """A recorder that has kept texts 0 … of 3 tokens, or those of an earlier attempt."""
    rec = make_recorder(log, fixed_sequences=sequences, **options)
    rec.start(run={"vocab_size": 9}, resume_step=resume_step)
    keep(rec, sequences)
    return rec


def keep(rec: Recorder, sequences: int) -> None:
    if rec.fixed.collecting:
        texts = [make_rollout(i, prompt=i) for i in range(sequences)]
        taken = rec.fixed.accept(texts)
        if rec.rank == 0:
            rec.keep(taken)
        rec.fixed.complete(0)
        rec.store_fixed()


def score(rec: Recorder, step: int, failing: bool = False, finish: bool = True) -> None:
    """Record this rank's share of the kept texts as a trainer's hook does."""
    projections = rec.begin_contexts()
    for text in rec.fixed.share(rec.rank, rec.world_size):
        columns = {**rows_of(text.sequence_id), **alternatives()}
        rec.record(step, columns, table="fixed")
        if projections is not None:
            rng = np.random.default_rng(text.sequence_id)
            keys = columns["sequence_id"], columns["position"]
            projections.add(*keys, rng.standard_normal((3, BITS)).astype(np.float32))
    if failing:
        rec.drop(step, "no memory left", table="fixed")
    rec.open_step(step, table="alternatives")
    if projections is not None:
        rec.record_contexts(step, projections)
    if finish:
        rec.finish_step(step, table="fixed")


def rows(log: Path, table: str, *columns: str) -> dict[str, Any]:
    batches = list(rocktok.open(log).scan(table, columns))
    return {name: np.concatenate([b.columns[name] for b in batches]) for name in batches[0].columns}


def steps(log: Path, attempt: int = 0, rank: int = 0) -> dict[str, list[int]]:
    found = manifest(log, attempt, rank)["steps"]
    return {table: found.get(table, []) for table in ("fixed", *schema.BESIDE_FIXED)}


# --- what may be asked for ---------------------------------------------------------------------


def test_presets() -> None:
    assert Recorder("x").columns == DEFAULT_COLUMNS == COLUMN_PRESETS["default"]
    assert set(Recorder("x", columns="lenses").columns) == {
        *DEFAULT_COLUMNS, "jsd", "overlap", "student_mass", "teacher_mass", "teachability",
        "student_end", "teacher_end",
    }  # fmt: skip
    assert Recorder("x", columns="all").columns == schema.OPTIONAL_STATISTICS
    assert Recorder("x", columns=["jsd", "log_ratio", "jsd"]).columns == ("log_ratio", "jsd")
    assert Recorder("x", columns=()).columns == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": "lens"},
            "Recorder: columns is 'lens'; give one of the presets default, lenses, all, or a "
            "sequence of names",
        ),
        (
            {"columns": ["jsd", "kld"]},
            f"Recorder: no column 'kld'; choose from {', '.join(schema.OPTIONAL_STATISTICS)}",
        ),
        (
            {"alternatives": -1},
            "Recorder: alternatives must be an integer of at least 0, not -1",
        ),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HookError) as caught:
        Recorder("x", **options)
    assert str(caught.value) == message


def test_more_alternatives_than_the_vocabulary(tmp_path: Path) -> None:
    message = "Recorder: alternatives is 6, more than the vocabulary of 4; give at most 4"
    with pytest.raises(HookError) as caught:
        Recorder(tmp_path / "log", alternatives=6).start(run={"vocab_size": 4})
    assert str(caught.value) == message
    assert not (tmp_path / "log").exists()
    # The default is cut, once for each run.
    rec = Recorder(tmp_path / "log")
    for size, likeliest in ((4, 4), (9, 5)):
        rec.log_dir = tmp_path / str(size)
        rec.start(run={"vocab_size": size})
        assert rec.likeliest == likeliest
        rec.close()


def test_end_masses_need_terminal_ids(tmp_path: Path) -> None:
    rec = Recorder(tmp_path / "log", columns="lenses")
    for run in ({}, {"terminal_ids": {"student": [], "teacher": []}}):
        with pytest.raises(HookError) as caught:
            rec.start(run=run)
        assert str(caught.value) == (
            "Recorder: student_end and teacher_end need the run's terminal ids, and terminal_ids "
            'names none; give start(run={"terminal_ids": {"student": [ids], "teacher": [ids]}, …}),'
            " or name the columns without these"
        )
        assert not (tmp_path / "log").exists()
    with pytest.raises(HookError, match=r"run: terminal_ids.student is \['a'\]; it must be a list"):
        rec.start(run={"terminal_ids": {"student": ["a"]}})
    rec.start(run={"vocab_size": 6, "terminal_ids": TERMINAL})
    assert rec.terminal_ids == (2,)
    rec.close()
    # A later attempt sums over the ids that the log names.
    rec.start(run={"vocab_size": 6, "terminal_ids": {"student": [1], "teacher": [1]}})
    assert rec.terminal_ids == (2,)
    rec.close()


def test_terminal_ids_are_those_of_rank_0(tmp_path: Path) -> None:
    ranks = [make_recorder(tmp_path) for _ in range(2)]
    ranks[1].terminal_ids = (5,)
    assert start_ranks(ranks, run={"terminal_ids": TERMINAL}) == [None, None]
    assert [rec.terminal_ids for rec in ranks] == [(2, 7)] * 2
    for rec in ranks:
        rec.close()


# --- what is written ---------------------------------------------------------------------------


def test_likeliest_tokens_go_to_a_table_of_their_own(tmp_path: Path) -> None:
    rec = begin(tmp_path)
    for step in (0, 5):
        score(rec, step)
    rec.close()
    fixed, beside = rows(tmp_path, "fixed", "loss"), rows(tmp_path, "alternatives", *BESIDE)
    for name in ("step", "sequence_id", "position"):
        np.testing.assert_array_equal(beside[name], fixed[name])
    for name, values in alternatives(12).items():
        np.testing.assert_array_equal(beside[name], values)
    assert steps(tmp_path) == {"fixed": [0, 5], "alternatives": [0, 5], "contexts": [0]}
    assert manifest(tmp_path)["dropped"] == []


def test_a_loop_of_ones_own_may_write_the_tables_itself(tmp_path: Path) -> None:
    rec = begin(tmp_path, contexts=False)
    keys = {"sequence_id": [0, 0, 0], "position": [0, 1, 2]}
    rec.record(0, rows_of(0), table="fixed")
    rec.record(0, {**keys, **alternatives()}, table="alternatives")
    context_NB = np.arange(96, dtype=np.uint8).reshape(3, 32)
    rec.record(0, {**keys, "context": context_NB}, table="contexts")
    rec.finish_step(0, table="fixed")
    # And neither is asked for.
    rec.record(1, rows_of(0), table="fixed")
    rec.finish_step(1, table="fixed")
    rec.close()
    assert steps(tmp_path) == {"fixed": [0, 1], "alternatives": [0], "contexts": [0]}
    np.testing.assert_array_equal(rows(tmp_path, "contexts", "context")["context"], context_NB)


def test_run_json_says_how_contexts_are_made(tmp_path: Path) -> None:
    said = {"bits": 256, "seed": 0, "hidden_size": 12}
    for name, options in (("with", {}), ("without", {"contexts": False}), ("no", {"sequences": 0})):
        sequences = options.pop("sequences", 2)
        rec = make_recorder(tmp_path / name, fixed_sequences=sequences, **options)
        rec.start(run={"contexts": said})
        rec.close()
        run = json.loads((tmp_path / name / "run.json").read_text())
        assert run.get("contexts") == (said if name == "with" else None)


def test_rows_beside_a_dropped_step_go_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rec = begin(tmp_path)
    with pytest.warns(RocktokWarning, match="step 0 of fixed was not recorded: no memory left"):
        score(rec, 0, failing=True)
    score(rec, 5)
    rec.close()
    dropped = [(d["table"], d["step"], d["rows"]) for d in manifest(tmp_path)["dropped"]]
    assert dropped == [("fixed", 0, 6), ("alternatives", 0, 6)]
    # Contexts come with the first step that is recorded.
    assert steps(tmp_path) == {"fixed": [5], "alternatives": [5], "contexts": [5]}
    assert "; dropped: 6 rows of 1 step;" in capsys.readouterr().err


def test_rows_beside_that_are_no_numbers_are_dropped_alone(tmp_path: Path) -> None:
    rec = begin(tmp_path, contexts=False)
    with pytest.warns(RocktokWarning, match="step 0 of alternatives was not recorded: student_pro"):
        rec.record(0, {**rows_of(0), **alternatives(likeliest=np.nan)}, table="fixed")
        rec.finish_step(0, table="fixed")
    rec.close()
    assert [(d["table"], d["step"]) for d in manifest(tmp_path)["dropped"]] == [("alternatives", 0)]
    assert steps(tmp_path)["fixed"] == [0]


def test_rows_beside_that_the_format_refuses_are_dropped_alone(tmp_path: Path) -> None:
    rec = begin(tmp_path, contexts=False)
    with pytest.warns(RocktokWarning, match="step 0 of alternatives was dropped"):
        rec.record(0, {**rows_of(0), **alternatives(likeliest=7.0)}, table="fixed")
        rec.finish_step(0, table="fixed")
        assert rec._background is not None
        rec._background.settle(LIMIT)
        rec.flush()
    rec.close()
    assert [(d["table"], d["step"]) for d in manifest(tmp_path)["dropped"]] == [("alternatives", 0)]
    assert steps(tmp_path)["fixed"] == [0]


def test_rows_beside_are_never_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = begin(tmp_path)

    def refuse(self: LogWriter, step: int, table: str = "rollout") -> None:
        monkeypatch.undo()
        raise OSError("no disk")

    monkeypatch.setattr(LogWriter, "finish_step", refuse)
    with pytest.warns(RocktokWarning, match="no disk"):
        score(rec, 0)
        assert rec._background is not None
        rec._background.settle(LIMIT)
        rec.flush()
    score(rec, 5)
    rec.close()
    assert {(d["table"], d["step"]) for d in manifest(tmp_path)["dropped"]} == {
        ("fixed", 0), ("alternatives", 0), ("contexts", 0)
    }  # fmt: skip
    assert steps(tmp_path) == {"fixed": [5], "alternatives": [5], "contexts": []}


# --- contexts: once ----------------------------------------------------------------------------


def test_a_queue_that_is_full_leaves_them_to_the_next_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rec = begin(tmp_path, queue_steps=1)
    assert rec._background is not None
    monkeypatch.setattr(rec._background, "_taken", -1)
    with pytest.warns(RocktokWarning, match="queue full"):
        score(rec, 0)
    monkeypatch.setattr(rec._background, "_taken", 0)
    score(rec, 5)
    rec._background.settle(LIMIT)
    score(rec, 10)
    rec.close()
    assert steps(tmp_path) == {"fixed": [5, 10], "alternatives": [5, 10], "contexts": [5]}


def test_memory_that_does_not_do_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketching_module, "MOST_POSITIONS", 5)
    rec = begin(tmp_path)
    message = "contexts are left out: kept text has 6 positions on a rank, and more than 5 would"
    with pytest.warns(RocktokWarning, match=message) as warned:
        for step in (0, 5):
            score(rec, step)
    assert len(warned) == 1
    rec.close()
    assert steps(tmp_path) == {"fixed": [0, 5], "alternatives": [0, 5], "contexts": []}


def test_a_later_attempt_does_not_write_them_again(tmp_path: Path) -> None:
    for resume in (0, 3, 0):
        rec = begin(tmp_path, resume_step=resume, supersede=True)
        score(rec, resume)
        rec.close(final=False)
    assert [steps(tmp_path, attempt)["contexts"] for attempt in range(3)] == [[0], [], [0]]
    found = rows(tmp_path, "contexts", "context")
    assert sorted(zip(found["sequence_id"].tolist(), found["position"].tolist(), strict=True)) == [
        (i, t) for i in (0, 1) for t in range(3)
    ]


def test_what_an_attempt_lacks_the_next_one_adds(tmp_path: Path) -> None:
    """As where one rank was killed before its shard: mean over all, rows of the missing ones."""
    whole = begin(tmp_path / "whole")
    score(whole, 0)
    whole.close()
    rec = begin(tmp_path / "log")
    expected = rows(tmp_path / "whole", "contexts", "context")
    mine = expected["sequence_id"] == 0
    rec.record(0, rows_of(0), table="fixed")
    part = {name: expected[name][mine] for name in ("sequence_id", "position", "context")}
    rec.record(0, part, table="contexts")
    rec.finish_step(0, table="fixed")
    rec.close(final=False)
    rec = begin(tmp_path / "log", resume_step=4)
    assert rec.fixed.sketched == {0}
    score(rec, 4)
    rec.close()
    found = rows(tmp_path / "log", "contexts", "context")
    assert found["step"].tolist() == [0] * 3 + [4] * 3
    for name in ("sequence_id", "position", "context"):
        np.testing.assert_array_equal(found[name], expected[name])


def on_ranks(recorders: list[Recorder], action: Any) -> None:
    """Run an action for each rank in a thread; their `all_gather` is the one they started with."""
    import threading

    threads = [threading.Thread(target=action, args=(rec,)) for rec in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_any_number_of_ranks_gives_the_same_bits(tmp_path: Path) -> None:
    found = []
    for world in (1, 2, 3, 7):
        log = tmp_path / str(world)
        ranks = [make_recorder(log, fixed_sequences=5) for _ in range(world)]
        assert start_ranks(ranks, run={"vocab_size": 9}) == [None] * world
        for rec in ranks:
            keep(rec, 5)
        on_ranks(ranks, lambda rec: score(rec, 0))
        for rec in ranks:
            rec.close()
        assert rocktok.open(log).complete_steps("contexts") == [0]
        assert rocktok.open(log).complete_steps("alternatives") == [0]
        table = rows(log, "contexts", "context")
        order = np.lexsort((table["position"], table["sequence_id"]))
        found.append({name: values[order] for name, values in table.items()})
    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_array_equal(other[name], values)


def test_a_rank_that_fails_makes_all_try_again(tmp_path: Path) -> None:
    ranks = [make_recorder(tmp_path, fixed_sequences=5) for _ in range(2)]
    assert start_ranks(ranks, run={"vocab_size": 9}) == [None, None]
    for rec in ranks:
        keep(rec, 5)
    with pytest.warns(RocktokWarning, match="no memory left"):
        on_ranks(ranks, lambda rec: score(rec, 0, failing=rec.rank == 1))
    on_ranks(ranks, lambda rec: score(rec, 5))
    for rec in ranks:
        rec.close()
    assert [steps(tmp_path, rank=rank)["contexts"] for rank in (0, 1)] == [[5], [5]]
    assert len(rows(tmp_path, "contexts", "context")["step"]) == 15
