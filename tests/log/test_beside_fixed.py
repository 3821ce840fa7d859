"""`alternatives/` and `contexts/` against `fixed/`: positions, coverage, the writer, compact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.analyses.info.passes import info
from rocktok.engine.passes import Engine
from rocktok.errors import DataError
from rocktok.log import LogWriter, compact, encoding, tasks
from rocktok.log.resume import pick_up, published_sequences
from tests.log.beside import COLUMNS, assert_rows, both, read, stored, write
from tests.logs import RUN, alternatives_rows, context_rows, rows, shards, write_by_hand
from tests.processes import run_command

# -- beside fixed ------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("table", COLUMNS)
def test_a_row_that_fixed_lacks_is_named(
    table: str, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 20)
    monkeypatch.setattr(encoding, "ROW_GROUP_NUMBERS", 1)
    make: Any = alternatives_rows if table == "alternatives" else context_rows
    with LogWriter(tmp_path, run=RUN) as writer:
        for step in (0, 10):
            writer.write(rows(step, range(8)), table="fixed")
        writer.write(make(10, [1, 2, 5]), table=table)
        writer.write(make(10, [3], tokens=13), table=table)
    (target,) = shards(tmp_path, table)
    with Engine(jobs) as engine:
        assert info(tmp_path, verify=True, engine=engine).damage == (
            f"{target}: sequence 3, position 12 at step 10 is not in fixed/; rows of {table}/ must "
            "be positions that fixed/ has at the same step",
        )
    code, _, said = run_command("info", tmp_path, "--verify")
    assert code == 1
    assert f"rocktok: {target}: sequence 3, position 12 at step 10 is not in fixed/" in said


def test_a_step_or_a_text_that_fixed_lacks_is_named(tmp_path: Path) -> None:
    for name, step, sequences in (("step", 5, [0]), ("text", 0, [0, 9])):
        with LogWriter(tmp_path / name, run=RUN) as writer:
            writer.write(rows(0, range(8)), table="fixed")
            writer.write(alternatives_rows(step, sequences), table="alternatives")
        (problem,) = info(tmp_path / name, verify=True).damage
        assert f": sequence {sequences[-1]}, position 0 at step {step} is not in fixed/" in problem


def test_other_ranks_and_cuts_may_hold_the_positions(tmp_path: Path) -> None:
    """The shards of fixed/ and those beside it need not be cut alike."""
    zero = LogWriter(tmp_path, run=RUN, world_size=2)
    one = LogWriter(tmp_path, rank=1, world_size=2, attempt=0, run_id=zero.run_id)
    for writer, theirs in ((zero, [0, 2, 4]), (one, [1, 3, 5])):
        writer.write(rows(0, theirs), table="fixed")
    for writer, theirs in ((zero, [3, 0]), (one, [2, 5])):
        writer.write(alternatives_rows(0, theirs), table="alternatives")
        writer.close()
    assert info(tmp_path, verify=True).damage == ()
    assert sorted(set(read(tmp_path, "alternatives")["sequence_id"])) == [0, 2, 3, 5]


def test_a_sequence_in_two_shards_is_refused(tmp_path: Path) -> None:
    zero = LogWriter(tmp_path, run=RUN, world_size=2)
    one = LogWriter(tmp_path, rank=1, world_size=2, attempt=0, run_id=zero.run_id)
    zero.write(rows(0, range(4)), table="fixed")
    for writer, theirs in ((zero, [0, 1]), (one, [1, 2])):
        writer.write(alternatives_rows(0, theirs), table="alternatives")
        writer.close()
    message = r"both hold sequence 1 at step 0; keep each sequence of a step in one shard"
    with pytest.raises(DataError, match=message):
        read(tmp_path, "alternatives")
    assert [line for line in info(tmp_path, verify=True).damage if "both hold sequence 1" in line]


def test_lists_of_a_step_are_equally_long(tmp_path: Path) -> None:
    zero = LogWriter(tmp_path / "log", run=RUN, world_size=2)
    one = LogWriter(tmp_path / "log", rank=1, world_size=2, attempt=0, run_id=zero.run_id)
    for writer, sequence, k in ((zero, 0, 3), (one, 1, 4)):
        writer.write(rows(0, [sequence]), table="fixed")
        writer.write(alternatives_rows(0, [sequence], k=k), table="alternatives")
        writer.close()
    first, second = shards(tmp_path / "log", "alternatives")
    (problem,) = info(tmp_path / "log", verify=True).damage
    assert problem == (
        f"{second}: lists of 4 values at step 0, of 3 in {first}; the lists of a step must be "
        "equally long"
    )
    with pytest.raises(
        DataError, match=r"4 values in a row where .*the lists of a step must be eq"
    ):
        compact.compact(tmp_path / "log", tmp_path / "out")


def test_contexts_stand_at_one_step(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        for step in (0, 10):
            writer.write(rows(step, range(8)), table="fixed")
        writer.write(context_rows(0, [0, 1, 2]), table="contexts")
        with pytest.raises(DataError, match="sequence 2 at step 10 has been written at step 0; wr"):
            writer.write(context_rows(10, [2, 3]), table="contexts")
        writer.write(context_rows(10, [3, 4]), table="contexts")
    assert info(tmp_path, verify=True).damage == ()
    # A hand-written log may say it twice, and is told.
    twice = tmp_path / "twice"
    for step in (0, 10):
        write_by_hand(twice, rows(step, range(3)), f"{step}")
        sketches = context_rows(step, [1])
        as_bytes = {**sketches, "context": [row.tobytes() for row in sketches["context"]]}
        write_by_hand(twice, as_bytes, f"{step}", table="contexts")
    one, other = shards(twice, "contexts")
    assert info(twice, verify=True).damage == (
        f"{other}: holds sequence 1 at step 10, {one} at step 0; a sequence has rows at only one "
        "step of contexts/: remove the later rows",
    )


# -- what info says ----------------------------------------------------------------------------


def test_info_says_what_is_covered(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        for step in (0, 10, 20):
            writer.write(rows(step, range(8)), table="fixed")
        half = alternatives_rows(10, range(8))
        kept = half["position"] % 2 == 0
        writer.write({n: v[kept] for n, v in half.items()}, table="alternatives")
        writer.write(context_rows(0, [0, 1, 2]), table="contexts")
        writer.write(context_rows(10, [5, 6]), table="contexts")
    result = info(tmp_path, verify=True)
    assert result.damage == ()
    tables = result.to_dict()["tables"]
    assert tables["alternatives"]["coverage"] == {
        "step": 10, "steps": 1, "fixed_steps": 3, "positions": 96, "covered": 48,
        "texts_without": None,
    }  # fmt: skip
    assert tables["contexts"]["coverage"] == {
        "step": 20, "steps": 2, "fixed_steps": 3, "positions": 96, "covered": 60,
        "texts_without": 3,
    }  # fmt: skip
    assert tables["fixed"]["coverage"] is None
    lines = str(result).splitlines()
    assert "  covers       48 of 96 positions of fixed/ at step 10 (50%); 1 of its 3 steps" in lines
    assert "  covers       60 of 96 positions of fixed/ at step 20 (62%)" in lines
    (note,) = [note for note in result.notes if note.startswith("contexts/")]
    assert note.startswith("contexts/ lacks texts that fixed/ has at step 20 (3): comparisons of")


def test_alternatives_at_a_step_that_fixed_lacks_cover_nothing(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(rows(0, range(8)), table="fixed")
        writer.write(alternatives_rows(5, range(8)), table="alternatives")
    covered = info(tmp_path).tables["alternatives"].coverage
    assert covered is not None
    assert (covered.step, covered.steps, covered.covered) == (0, 0, 0)


def test_tables_beside_rollouts_alone_are_shown(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(rows(0, range(3)), table="rollout")
        writer.write(context_rows(0, range(3)), table="contexts")
    assert info(tmp_path).tables["contexts"].coverage is None
    (problem,) = info(tmp_path, verify=True).damage
    assert "sequence 0, position 0 at step 0 is not in fixed/" in problem


# -- the writer --------------------------------------------------------------------------------


def test_a_position_comes_once(tmp_path: Path) -> None:
    for table, make in (("alternatives", alternatives_rows), ("contexts", context_rows)):
        with LogWriter(tmp_path / table, run=RUN) as writer:
            writer.write(make(0, [0, 1]), table=table)
            with pytest.raises(DataError, match=f"{table}: sequence 1 has position 0 twice at"):
                writer.write(make(0, [1, 2]), table=table)


def test_no_row_is_published_before_its_position(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, run=RUN)
    writer.write(rows(0, [0]), table="fixed")
    writer.write(alternatives_rows(0, [0]), table="alternatives")
    writer.write(context_rows(0, [0]), table="contexts")
    writer.finish_step(0, "alternatives")
    writer.flush()
    assert [shards(tmp_path, table) for table in ("fixed", "alternatives", "contexts")] == [[]] * 3
    writer.finish_step(0, "fixed")
    writer.flush()
    # That of contexts is open still.
    there = [len(shards(tmp_path, table)) for table in ("fixed", "alternatives", "contexts")]
    assert there == [1, 1, 0]
    writer.close()
    assert len(shards(tmp_path, "contexts")) == 1
    assert info(tmp_path, verify=True).damage == ()


def test_a_step_of_fixed_that_is_given_up_takes_them_along(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        for step in (0, 10):
            writer.write(rows(step, range(8)), table="fixed")
            writer.write(alternatives_rows(step, range(8)), table="alternatives")
            writer.finish_step(step, "alternatives")
            if step == 0:
                writer.write(context_rows(step, range(8)), table="contexts")
                writer.drop_step(0, 96, "queue full", table="fixed")
                # Counted already.
                writer.drop_step(0, 96, "queue full", table="alternatives")
                with pytest.raises(DataError, match="contexts: step 0 was dropped"):
                    writer.write(context_rows(0, range(8)), table="contexts")
        # Texts whose contexts were given up may have them later.
        writer.write(context_rows(10, range(8)), table="contexts")
    result = info(tmp_path, verify=True)
    assert result.damage == ()
    assert [(d["table"], d["step"], d["rows"]) for d in result.dropped] == [
        ("alternatives", 0, 96), ("contexts", 0, 96), ("fixed", 0, 96),
    ]  # fmt: skip
    log = rocktok.open(tmp_path)
    for table in ("fixed", "alternatives", "contexts"):
        assert (log.complete_steps(table), log.incomplete_steps(table)) == ([10], [0])


def test_what_is_buffered_can_be_given_up(tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(rows(0, [0]), table="fixed")
        writer.write(alternatives_rows(0, [0]), table="alternatives")
        writer.write(context_rows(0, [0]), table="contexts")
        assert writer.drop_buffered("disk full") == 36
        writer.write(rows(10, [0]), table="fixed")
        writer.write(context_rows(10, [0]), table="contexts")
    result = info(tmp_path, verify=True)
    assert (result.damage, result.dropped_rows) == ((), 36)
    assert read(tmp_path, "contexts")["step"].tolist() == [10] * 12


def test_a_later_attempt_supersedes_them(tmp_path: Path) -> None:
    write(tmp_path, steps=(0, 10, 20))
    write(tmp_path, steps=(0, 10), resume_step=0, supersede=True, k=3)
    assert read(tmp_path, "alternatives")["student_ids"].shape == (192, 3)
    assert len(read(tmp_path, "contexts")["step"]) == 96
    result = info(tmp_path, verify=True)
    assert result.damage == ()
    assert result.tables["alternatives"].superseded_rows == 288
    assert read(tmp_path, "alternatives", attempt=0)["student_ids"].shape == (288, 5)


def test_an_attempt_from_a_checkpoint_keeps_the_contexts(tmp_path: Path) -> None:
    write(tmp_path, steps=(0, 10, 20))
    with LogWriter(tmp_path, run=RUN, resume_step=20) as writer:
        writer.write(rows(20, range(8)), table="fixed")
    log = rocktok.open(tmp_path)
    assert [step.step for step in log.steps("alternatives")] == [0, 10]
    assert log.incomplete_steps("alternatives") == []
    covered = info(tmp_path, verify=True).tables["contexts"].coverage
    assert covered is not None
    assert (covered.step, covered.covered, covered.texts_without) == (20, 96, 0)


def test_a_killed_writer_is_picked_up(tmp_path: Path) -> None:
    """As `rescore` does: whole shards that no manifest lists, and what they hold."""
    writer = LogWriter(tmp_path, run=RUN)
    writer.write(rows(0, [0, 1]), table="fixed")
    writer.write(alternatives_rows(0, [0, 1]), table="alternatives")
    writer.write(context_rows(0, [0, 1]), table="contexts")
    listed = writer.place.read(writer.manifest.path)
    writer.flush(whole=True)
    writer.place.replace(writer.manifest.path, listed)
    manifest = pick_up(writer.place, writer.run_id)
    assert len(manifest.shards) == 3
    for table in ("fixed", *COLUMNS):
        found = published_sequences(writer.place, manifest, table)
        assert {step: ids.tolist() for step, ids in found.items()} == {0: [0, 1]}
    again = LogWriter(tmp_path, attempt=0, run_id=writer.run_id, manifest=manifest)
    again.write(rows(0, [2]), table="fixed")
    again.write(alternatives_rows(0, [2]), table="alternatives")
    again.close()
    assert info(tmp_path, verify=True).damage == ()
    assert len(read(tmp_path, "alternatives")["step"]) == 36


# -- compact -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [30, 10_000])
def test_compact_carries_them_over(
    target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 30)
    monkeypatch.setattr(compact, "SHARD_ROWS", target)
    write(tmp_path / "log", steps=(0, 10))
    write(tmp_path / "log", steps=(10, 20), resume_step=10, k=3)
    with LogWriter(tmp_path / "log", run=RUN, resume_step=30) as writer:
        writer.write(rows(30, range(20)), table="fixed")
        writer.write(context_rows(30, range(8, 20)), table="contexts")
        writer.drop_step(40, 7, "queue full", table="alternatives")
    # The second attempt has the contexts of texts again, as no recorder does.
    old = rocktok.log.open_log(tmp_path / "log")
    assert len(info(old, verify=True).damage) == 1
    compact.compact(old, tmp_path / "out")
    new = rocktok.open(tmp_path / "out")
    for table in COLUMNS:
        assert new.steps(table) == old.steps(table)
        assert new.incomplete_steps(table) == old.incomplete_steps(table)
    for step, k in ((0, 5), (10, 3), (20, 3)):
        found = read(tmp_path / "out", "alternatives", [step])
        assert_rows(found, stored(alternatives_rows(step, range(8), k=k)))
    assert_rows(
        read(tmp_path / "out", "contexts"),
        both(
            *(
                context_rows(s, ids)
                for s, ids in ((0, range(8)), (10, range(8)), (30, range(8, 20)))
            )
        ),
    )
    compact.compact(new, tmp_path / "again")
    for path in (tmp_path / "out").rglob("*.parquet"):
        assert (
            path.read_bytes()
            == (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes()
        )


def test_full_shards_are_of_so_many_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of alternatives takes two row groups of numbers: here 20 in a row."""
    for module in (compact, encoding):
        monkeypatch.setattr(module, "ROW_GROUP_NUMBERS", 36 * 20)
    write(tmp_path / "log", sequences=10)
    compact.compact(tmp_path / "log", tmp_path / "out")
    log = rocktok.open(tmp_path / "out")
    assert [shard.entry.rows for shard in log.shards("alternatives") if shard.entry] == [
        72, 72, 72, 24,
    ]  # fmt: skip
    assert [shard.entry.rows for shard in log.shards("fixed") if shard.entry] == [240]
