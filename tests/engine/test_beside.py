"""Tables beside `fixed`, put to its rows: the right values, however the shards are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.engine.passes import Engine, Partial
from rocktok.engine.source import Source
from rocktok.errors import DataError, LogError
from rocktok.log import LogWriter, attach, tasks
from rocktok.log.reader import Reader
from rocktok.log.sequences import load_prompts
from rocktok.stats.accumulator import Batch
from tests import logs
from tests.beside_logs import Rows, alternatives, contexts, joined, picked, write_by_hand
from tests.logs import RUN, rows, sequence_rows, shards

WORDS = ("student_ids", "student_probs", "teacher_ids", "teacher_probs")


class Collected:
    """Every row, with the columns asked for."""

    def __init__(self, *columns: str) -> None:
        self.needs = ("sequence_id", "position", "token_id", *columns)
        self.batches: list[dict[str, Any]] = []

    def update(self, batch: Batch) -> None:
        self.batches.append({name: np.array(values) for name, values in batch.items()})

    def merge(self, other: Self) -> None:
        self.batches += other.batches

    def by_key(self, name: str) -> dict[tuple[int, int], Any]:
        return {
            (int(sequence), int(position)): value
            for batch in self.batches
            for sequence, position, value in zip(
                batch["sequence_id"], batch["position"], batch[name], strict=True
            )
        }


def source_of(path: Path, pre: int | None = None, post: int = 10, **options: Any) -> Source:
    log = rocktok.log.open_log(path, **options)
    return Source(log, "fixed", pre, post, load_prompts(log))


def read(source: Source, *columns: str, jobs: int = 1) -> tuple[Collected, Partial]:
    found = Collected(*columns)
    with Engine(jobs) as engine:
        return found, engine.run(source, found)


def expected(*parts: Rows) -> dict[tuple[int, int], dict[str, Any]]:
    """The twin: a dictionary of all rows beside, by key; of the first step that has the key."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for part in parts:
        for i in range(len(part["step"])):
            key = int(part["sequence_id"][i]), int(part["position"][i])
            found.setdefault(key, {name: values[i] for name, values in part.items()})
    return found


def check(found: Collected, by_key: dict[tuple[int, int], dict[str, Any]], mark: str) -> int:
    """Compare with the twin; returns the rows that have none beside."""
    without = 0
    for name in found.batches[0]:
        if attach.TABLE_OF.get(name) != attach.TABLE_OF[mark]:
            continue
        for key, value in found.by_key(name).items():
            row = by_key.get(key)
            if name == mark:
                assert bool(value) == (row is not None)
                without += row is None
            elif row is not None:
                width = len(row[name])
                np.testing.assert_array_equal(value[:width], row[name])
            elif name == "context":
                assert not value.any()
            else:
                assert (value == -1).all() if name.endswith("_ids") else np.isnan(value).all()
    return without


def write(path: Path, cuts: int = 1, share: float = 0.5) -> tuple[Rows, Rows]:
    """Two ranks with 30 sequences each at steps 0 and 10; rows beside cut into more shards.

    Returns the alternatives at step 10, and the contexts.
    """
    words, sketches = [], []
    with LogWriter(path, run=RUN) as writer:
        writer.write(sequence_rows(range(60)), table="sequences")
    for rank in range(2):
        with LogWriter(
            path, rank=rank, world_size=2, attempt=writer.attempt, run_id=writer.run_id
        ) as part:
            mine = range(30 * rank, 30 * rank + 30)
            for step in (0, 10):
                part.write(rows(step, mine), table="fixed")
                part.finish_step(step, "fixed")
                part.flush()
                for ids in np.array_split(mine, cuts):
                    fixed = rows(step, ids.tolist())
                    words.append(alternatives(fixed, share=share))
                    part.write(words[-1], table="alternatives")
                    if step == 0:
                        sketches.append(contexts(fixed, share=share))
                        part.write(sketches[-1], table="contexts")
                    part.flush(whole=True)
    return joined([part for part in words if (part["step"] == 10).all()]), joined(sketches)


Made = Callable[[int], tuple[Path, Rows, Rows]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`write`, once for each number of cuts, for tests that change nothing of it."""

    @cache
    def once(cuts: int) -> tuple[Path, Rows, Rows]:
        path = tmp_path_factory.mktemp("made")
        return path, *write(path, cuts)

    return once


@pytest.mark.parametrize("pre", [None, 0])
@pytest.mark.parametrize("cuts", [1, 4])
def test_rows_beside_stand_with_theirs(
    pre: int | None, cuts: int, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    path, words, sketches = made(cuts)
    source = source_of(path, pre)
    found, whole = read(source, *WORDS, "has_alternatives", "context", "has_context")
    assert len(found.by_key("token_id")) == 720
    without = check(found, expected(words), "has_alternatives")
    assert 0 < without < 720
    blank = check(found, expected(sketches), "has_context")
    assert whole.lacking == {"alternatives": without, "contexts": blank}
    both = found.batches[0]
    assert both["student_ids"].dtype == np.int32
    assert both["teacher_probs"].dtype == np.float32
    assert both["context"].shape[1] == 32
    assert both["context"].view(np.uint64).shape[1] == 4


@pytest.mark.parametrize("pre", [None, 0])
def test_any_number_of_threads_reads_the_same(
    pre: int | None, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    path, _, _ = made(4)
    one, many = (read(source_of(path, pre), *WORDS, jobs=n)[0] for n in (1, 4))
    assert len(one.batches) == len(many.batches) > 1
    for alone, shared in zip(one.batches, many.batches, strict=True):
        for name, values in alone.items():
            np.testing.assert_array_equal(shared[name], values)


def test_the_mark_alone_needs_no_other_column(made: Made) -> None:
    path, words, _ = made(1)
    found, _ = read(source_of(path), "has_alternatives")
    assert sum(map(bool, found.by_key("has_alternatives").values())) == len(words["step"])
    assert not set(found.batches[0]) & set(WORDS)


def test_half_of_the_prompts_and_chosen_sequences_keep_their_rows(made: Made) -> None:
    path, words, _ = made(4)
    source = replace(source_of(path, 0), half=1, only=np.arange(7, 40))
    found, _ = read(source, *WORDS, "has_alternatives")
    sequences = {sequence for sequence, _ in found.by_key("token_id")}
    assert 0 < len(sequences) < 33
    check(found, expected(words), "has_alternatives")


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_by_hand_any_cut_and_order_of_shards(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("by_hand")
    ids = range(data.draw(st.integers(1, 9)))
    post = rows(10, ids, tokens=5)
    words = alternatives(post, share=data.draw(st.sampled_from([0.3, 1.0])))
    first = contexts(rows(0, ids, tokens=5), share=0.6)
    later = contexts(rows(10, ids, tokens=5), share=0.9, seed=1)
    pre = data.draw(st.sampled_from([None, 0]))
    for table, step_rows in (
        ("fixed", rows(0, ids, tokens=5)), ("fixed", post), ("alternatives", words),
        ("contexts", first), ("contexts", later),
    ):  # fmt: skip
        if not len(step_rows["step"]):
            continue
        owner = data.draw(st.lists(st.integers(0, 2), min_size=len(ids), max_size=len(ids)))
        owner_N = np.array(owner)[step_rows["sequence_id"]]
        for number in sorted(set(owner_N.tolist())):
            part = picked(step_rows, owner_N == number)
            name = f"{data.draw(st.sampled_from('abc'))}{part['step'][0]}-{number}"
            size = data.draw(st.sampled_from([2, 7, 100]))
            write_by_hand(path, part, table, name, row_group_size=size)
    needs = [*WORDS, "has_alternatives"] if len(words["step"]) else []
    if len(first["step"]) or len(later["step"]):
        needs += ["context", "has_context"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TASK_ROWS", 10)
        found, _ = read(source_of(path, pre), *needs)
    assert len(found.by_key("token_id")) == 5 * len(ids)
    if len(words["step"]):
        check(found, expected(words), "has_alternatives")
    if "context" in needs:
        # Of a sequence that stands at two steps, the first.
        held = set(first["sequence_id"].tolist())
        rest = np.array([i not in held for i in later["sequence_id"].tolist()], dtype=bool)
        check(found, expected(first, picked(later, rest)), "has_context")


def one_log(path: Path, fixed: Rows, words: Rows, pre: Rows | None = None) -> Path:
    if pre is not None:
        logs.write_by_hand(path, pre, "pre")
    logs.write_by_hand(path, fixed, "post")
    return write_by_hand(path, words, "alternatives")


@pytest.mark.parametrize("pre", [None, 0])
def test_a_position_that_fixed_lacks_is_an_error(pre: int | None, tmp_path: Path) -> None:
    words = alternatives(rows(10, range(4)))
    words["position"][-1] = 77
    one_log(tmp_path, rows(10, range(4)), words, rows(0, range(4)))
    with pytest.raises(DataError) as raised:
        read(source_of(tmp_path, pre), *WORDS)
    assert str(raised.value) == (
        f"{tmp_path}/alternatives/a.parquet: sequence 3, position 77 at step 10 is not in fixed/; "
        "alternatives/ may only have rows of fixed/: remove it, or restore the rows of fixed/"
    )


@pytest.mark.parametrize("pre", [None, 0])
@pytest.mark.parametrize("extra", [[-5], [2], [9]])
def test_a_sequence_that_fixed_lacks_is_an_error(
    pre: int | None, extra: list[int], tmp_path: Path
) -> None:
    ids = [0, 1, 3, 4]
    words = alternatives(rows(10, sorted([*ids, *map(abs, extra)])))
    words["sequence_id"][words["sequence_id"] == 5] = 6
    one_log(tmp_path, rows(10, ids), words, rows(0, ids))
    with pytest.raises(
        DataError, match=rf"sequence {6 if extra == [-5] else extra[0]}, position 0"
    ):
        read(source_of(tmp_path, pre), *WORDS)


def test_a_sequence_at_one_of_two_steps_takes_its_alternatives_along(tmp_path: Path) -> None:
    fixed = rows(10, range(6))
    one_log(tmp_path, fixed, alternatives(fixed), rows(0, range(3)))
    found, whole = read(source_of(tmp_path, 0), *WORDS, "has_alternatives")
    assert {sequence for sequence, _ in found.by_key("token_id")} == {0, 1, 2}
    assert whole.unpaired == 3
    assert check(found, expected(alternatives(fixed)), "has_alternatives") == 0


def test_a_sequence_beside_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    fixed = rows(10, range(6))
    one_log(tmp_path, fixed, alternatives(fixed))
    write_by_hand(tmp_path, alternatives(rows(10, [4])), "alternatives", "b")
    with pytest.raises(DataError, match=r"both hold sequence 4 at step 10"):
        read(source_of(tmp_path), *WORDS)


def test_what_was_left_out_of_fixed_is_no_error_beside(tmp_path: Path) -> None:
    words, _ = write(tmp_path)
    shards(tmp_path)[-1].unlink()
    found, whole = read(source_of(tmp_path, allow_missing=True), *WORDS, "has_alternatives")
    assert len(found.by_key("token_id")) == 360
    assert check(found, expected(words), "has_alternatives") == whole.lacking["alternatives"]


@pytest.mark.parametrize("pre", [None, 0])
def test_a_later_attempt_supersedes_rows_beside_as_well(pre: int | None, tmp_path: Path) -> None:
    ids = range(6)
    superseded, sketches = alternatives(rows(10, ids), seed=1), contexts(rows(0, ids))
    again = alternatives(rows(10, ids), share=0.5)
    for attempt, words in ((0, superseded), (1, again)):
        with LogWriter(tmp_path, run=RUN, resume_step=10 * attempt) as writer:
            if attempt == 0:
                writer.write(sequence_rows(ids), table="sequences")
                writer.write(rows(0, ids), table="fixed")
                writer.write(sketches, table="contexts")
            writer.write(rows(10, ids), table="fixed")
            writer.write(words, table="alternatives")
    found, _ = read(source_of(tmp_path, pre), *WORDS, "has_alternatives", "context", "has_context")
    assert check(found, expected(again), "has_alternatives") > 0
    assert check(found, expected(sketches), "has_context") == 0


def test_contexts_of_text_that_is_no_longer_scored_are_no_error(tmp_path: Path) -> None:
    logs.write_by_hand(tmp_path, rows(10, range(3)))
    write_by_hand(tmp_path, contexts(rows(0, range(6))), "contexts")
    found, _ = read(source_of(tmp_path), "context", "has_context")
    assert check(found, expected(contexts(rows(0, range(3)))), "has_context") == 0


def test_what_a_log_lacks_is_said_with_the_remedy(made: Made, tmp_path: Path) -> None:
    path, _, _ = made(1)
    logs.write_log(tmp_path / "bare")
    source = source_of(tmp_path / "bare")
    for column, table, remedy in (
        ("teacher_ids", "alternatives", r"Recorder\(alternatives=5\)"),
        ("context", "contexts", r"Recorder\(contexts=True\)"),
    ):
        with pytest.raises(
            LogError, match=rf"bare: has no {table}/ table; record with {remedy}, or"
        ):
            read(source, column)
    with pytest.raises(LogError, match="has nothing in alternatives/ at step 20; record with"):
        read(replace(source_of(path), post=20), "teacher_ids")
    with pytest.raises(LogError, match="has contexts/ only for the text in fixed/; choose tab"):
        read(replace(source_of(path), table="rollout"), "context")


@pytest.mark.parametrize("by_hand", [False, True])
def test_no_more_waits_than_a_row_group_where_both_tables_are_in_one_order(
    by_hand: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_hand:
        # Every third sequence stands nowhere beside.
        fixed = rows(10, range(60), tokens=5)
        words = alternatives(picked(fixed, fixed["sequence_id"] % 3 > 0))
        write_by_hand(tmp_path, fixed, "fixed", row_group_size=10)
        write_by_hand(tmp_path, words, "alternatives", row_group_size=10)
    else:
        write(tmp_path, 5, share=1.0)
    waiting: dict[int, int] = {}
    most = [0]
    methods = {name: getattr(attach._Unit, name) for name in ("_pull", "take")}

    def counting(name: str) -> Any:
        def counted(unit: Any, *arguments: Any) -> Any:
            answer = methods[name](unit, *arguments)
            waiting[id(unit)] = len(unit._chunks)
            most[0] = max(most[0], sum(waiting.values()))
            return answer

        return counted

    for name in methods:
        monkeypatch.setattr(attach._Unit, name, counting(name))
    # One task, as where shards are interleaved.
    monkeypatch.setattr(tasks, "TASK_ROWS", 1 << 30)
    read(source_of(tmp_path), *WORDS)
    assert 1 <= most[0] <= 2


def test_a_worker_gets_no_more_than_its_task(made: Made) -> None:
    path, _, _ = made(4)
    source = source_of(path, 0)
    shared = tasks.joined_tasks(
        source.log, "fixed", 0, 10, task_rows=100, beside={"alternatives": [10]}
    )
    assert len(shared) == 2
    assert [len(task.beside) for task in shared] == [4, 4]
    assert isinstance(source.for_task(shared[0]).reader, Reader)
