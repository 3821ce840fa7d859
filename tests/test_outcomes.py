"""The file of outcomes: what is written is read, and each broken rule is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.errors import LogError
from rocktok.outcomes import Outcomes, load_outcomes, outcomes_schema
from tests.analyses.pillars.made import Made


def small() -> Made:
    made = Made()
    made.add("ban:5", [[0, 1], [1, 1]], edit_after=np.full((2, 2), 0.25))
    made.add("baseline-2", [[1, 1], [1, 0]])
    made.add("baseline", [[0, 0], [1, 1]])
    return made.add("ban:9", [[1, 1], [0, 0]], group="control", control_of=5, fired=False)


def test_arrays_are_dense_with_baselines_first(tmp_path: Path) -> None:
    read = load_outcomes(small().save(tmp_path / "o.parquet"))
    assert [arm.name for arm in read.arms] == ["baseline", "baseline-2", "ban:5", "ban:9"]
    assert read.arms[3].control_of == 5
    assert (read.baselines, read.draws, read.problems) == (2, 2, ("p0", "p1"))
    assert read.columns["correct"][2].tolist() == [[False, True], [True, True]]
    assert read.columns["first_position"][:, 0, 0].tolist() == [-1, -1, 3, -1]
    assert np.isnan(read.columns["loss_after"]).all()
    assert read.columns["edit_after"][2].tolist() == [[0.25, 0.25]] * 2
    assert read.columns["rollout"][0].tolist() == [[0, 1], [0, 1]]


def test_the_order_of_rows_does_not_matter_but_for_that_of_names(tmp_path: Path) -> None:
    made = small()
    table = pa.table(made.columns, schema=outcomes_schema())
    turned = table.take(np.arange(table.num_rows)[::-1])
    made.columns = {name: turned.column(name).to_pylist() for name in turned.column_names}
    one, two = (load_outcomes(m.save(tmp_path / n)) for m, n in ((small(), "a"), (made, "b")))
    assert [arm.name for arm in two.arms] == ["baseline", "baseline-2", "ban:9", "ban:5"]
    assert two.problems == ("p1", "p0")
    assert (two.columns["correct"][[0, 1, 3, 2]][:, ::-1] == one.columns["correct"]).all()


def test_truth_values_may_be_numbers(tmp_path: Path) -> None:
    path = small().save(tmp_path / "o.parquet")
    table = pq.read_table(path)
    at = table.column_names.index("correct")
    pq.write_table(table.set_column(at, "correct", table["correct"].cast(pa.int8())), path)
    assert load_outcomes(path).columns["correct"].dtype == bool


def test_files_of_earlier_versions_do_not_say_what_was_cut(tmp_path: Path) -> None:
    path = small().save(tmp_path / "o.parquet")
    assert not load_outcomes(path).columns["truncated"].any()
    pq.write_table(pq.read_table(path).drop_columns("truncated"), path)
    assert "truncated" not in load_outcomes(path).columns
    found = rocktok.pillars(path, replicates=1000)
    assert found.sources[0]["truncated"] is found.arms[0]["truncated"] is None
    assert not any("cut at the limit" in note for note in found.notes)


def altered(column: str, value: Any, row: int = 0) -> Callable[[Made], None]:
    def alter(made: Made) -> None:
        made.columns[column][row] = value

    return alter


def without(arm: str) -> Callable[[Made], None]:
    def alter(made: Made) -> None:
        kept = [i for i, name in enumerate(made.columns["arm"]) if name != arm]
        made.columns = {k: [v[i] for i in kept] for k, v in made.columns.items()}

    return alter


def without_row(row: int) -> Callable[[Made], None]:
    def alter(made: Made) -> None:
        for values in made.columns.values():
            del values[row]

    return alter


def emptied(made: Made) -> None:
    made.columns = {name: [] for name in made.columns}


WRITTEN = "give what `rocktok intervene -o FILE.parquet` writes"

BROKEN: dict[str, tuple[Callable[[Made], None], str]] = {
    "no baseline": (
        without("baseline"), "has no arm 'baseline', which others are compared with",
    ),
    "no rock of a control": (
        without("ban:5"),
        "arm ban:9 is a control of token 5, which has no arm with mode ban and group rock",
    ),
    "a problem short": (
        without_row(0),
        "arm ban:5 has 1 rows of problem p0, the most of baseline are 2; arms need the same "
        "problems, each with the same number of rows",
    ),
    "twice": (
        altered("rollout", 0, 1),
        "arm ban:5 has problem p0 twice with seed 0 and rollout 0; leave one out",
    ),
    "another seed": (
        altered("seed", 4, 1),
        "arm ban:5 has seed 4, rollout 1 of problem p0, which baseline lacks; arms need the seeds "
        "and rollouts of their baseline",
    ),
    "a mode that is none": (
        altered("mode", "banned"),
        "mode is banned in row 0; choose from baseline, ban, ban-in-context, replace",
    ),
    "a group that is none": (
        altered("group", "rocks"),
        "group is rocks in row 0; choose from baseline, rock, control, placebo, frequency",
    ),
    "a baseline with a token": (
        altered("token_id", 3, 4), "token_id is 3 in row 4; baselines have −1, others an id",
    ),
    "an arm that differs": (
        altered("token_id", 6, 2),
        "rows of arm ban:5 differ in token_id (row 2); give each arm a name of its own",
    ),
    "a place where nothing fired": (
        altered("first_position", 2, 5),
        "first_position is 2 in row 5; the arm did not fire there",
    ),
    "an edit above one": (
        altered("edit_after", 1.5), "edit_after is 1.5 in row 0; it must be from 0 to 1",
    ),
    "a loss that is no number": (
        altered("loss_after", float("nan")), "loss_after is nan in row 0; leave it empty",
    ),
    "no rows": (emptied, f"holds no rows; {WRITTEN}"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_one_line_for_writer_and_reader(name: str, tmp_path: Path) -> None:
    alter, words = BROKEN[name]
    made = small()
    alter(made)
    with pytest.raises(LogError) as error:
        made.encode()
    assert str(error.value) == f"outcomes: {words}"
    path = tmp_path / "o.parquet"
    table = pa.table(made.columns, schema=outcomes_schema())
    about = {"rocktok": json.dumps({"schema": "rocktok.outcomes/1", "benchmark": "toy"})}
    pq.write_table(table.replace_schema_metadata(about), path)
    with pytest.raises(LogError) as error:
        load_outcomes(path)
    assert str(error.value) == f"{path}: {words}"


def test_a_control_of_a_rock_that_never_fired_is_one(tmp_path: Path) -> None:
    made = small()
    without("ban:5")(made)
    made.about["never_fired"] = [{"arm": "ban:5", "token_id": 5, "mode": "ban", "group": "rock"}]
    read = load_outcomes(made.save(tmp_path / "o.parquet"))
    assert [row["token_id"] for row in read.never_fired] == [5]


def changed(path: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    pq.write_table(change(pq.read_table(path)), path)
    return path


def with_about(**about: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.replace_schema_metadata({"rocktok": json.dumps(about)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace_schema_metadata(None), f"is not a table of outcomes; {WRITTEN}"),
        (
            with_about(schema="rocktok.outcomes/2", benchmark="toy"),
            f"its schema is rocktok.outcomes/2, this version reads rocktok.outcomes/1; {WRITTEN}",
        ),
        (
            with_about(schema="rocktok.outcomes/1"),
            f"its metadata does not name the benchmark; {WRITTEN}",
        ),
        (
            with_about(schema="rocktok.outcomes/1", benchmark="toy", never_fired=[5]),
            f"never_fired in its metadata is no list of arms; {WRITTEN}",
        ),
        (
            with_about(schema="rocktok.outcomes/1", benchmark="toy", models="s"),
            f"models in its metadata is no object; {WRITTEN}",
        ),
        (
            with_about(schema="rocktok.outcomes/1", benchmark="toy", tokenizer=["s"]),
            f"tokenizer in its metadata is no text; {WRITTEN}",
        ),
        (lambda t: t.drop_columns(["fired"]), f"has no column fired; {WRITTEN}"),
        (
            lambda t: t.set_column(8, "correct", pa.array([0, 1, 2, *[0] * 13])),
            "correct is 2 in row 2; it must be true or false",
        ),
        (
            lambda t: t.set_column(8, "correct", pa.array([0.0, float("nan"), *[0.0] * 14])),
            "correct is nan in row 1; it must be true or false",
        ),
        (
            lambda t: t.set_column(8, "correct", pa.array(["yes"] * 16)),
            f"correct holds string, not bool; {WRITTEN}",
        ),
        (
            lambda t: t.set_column(6, "seed", pa.array([*[0] * 15, None], pa.int64())),
            f"seed is missing in row 15; {WRITTEN}",
        ),
        (
            lambda t: t.set_column(9, "num_tokens", pa.array([1.5] * 16)),
            f"num_tokens holds double, not int32; {WRITTEN}",
        ),
    ],
)
def test_what_is_no_table_of_outcomes(
    change: Callable[[pa.Table], pa.Table], words: str, tmp_path: Path
) -> None:
    path = changed(small().save(tmp_path / "o.parquet"), change)
    with pytest.raises(LogError) as error:
        load_outcomes(path)
    assert str(error.value) == f"{path}: {words}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    with pytest.raises(LogError, match=f"{path}: is not there; give what"):
        load_outcomes(path)
    small().save(path).write_bytes(small().encode()[:-9])
    with pytest.raises(LogError, match=f"{path}: cannot be read as Parquet "):
        load_outcomes(path)
    assert isinstance(load_outcomes(small().save(path)), Outcomes)
