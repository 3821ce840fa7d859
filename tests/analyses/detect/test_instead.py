"""What the teacher wrote instead: by hand, against plain loops, and however the log is cut."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.analyses.detect import instead_passes
from rocktok.analyses.detect.instead import Alternatives, Instead, InsteadRow, Other, within
from rocktok.analyses.detect.persistence import Thresholds
from rocktok.analyses.detect.table import encode, render
from rocktok.engine.passes import Engine
from rocktok.log import LogWriter, tasks
from rocktok.tables.terminal import View
from tests import logs, worlds
from tests.beside_logs import Rows, alternatives, picked, write_by_hand
from tests.logs import RUN, rows, sequence_rows
from tests.processes import run_command

LOOSE: dict[str, Any] = {
    "quantile_pre": 0.5, "quantile_post": 0.5, "eta": 0.0, "gamma": 0.3, "all_types": True,
}  # fmt: skip

SEQUENCES = 40


def with_columns(step: int, sequences: range, recorded: tuple[str, ...]) -> Rows:
    """Rows of fixed/ with log-probabilities of the token, for the models named."""
    fixed = rows(step, sequences)
    for model in recorded:
        rng = np.random.default_rng([step, len(model)])
        fixed[f"{model}_logprob"] = -rng.exponential(2.0, len(fixed["step"])).astype(np.float32)
    return fixed


def write(
    path: Path, words: Rows | None, recorded: tuple[str, ...] = (), exactness: str = "exact"
) -> Path:
    """A log of steps 0 and 10, with alternatives at 10."""
    run = {**RUN, "loss": {**RUN["loss"], "exactness": exactness}}
    texts = [(i, f" t{i}", b" t%d" % i) for i in range(50)]
    columns = [f"{model}_logprob" for model in recorded]
    with LogWriter(path, run=run, vocab=texts, columns=columns) as writer:
        writer.write(sequence_rows(range(SEQUENCES)), table="sequences")
        for step in (0, 10):
            writer.write(with_columns(step, range(SEQUENCES), recorded), table="fixed")
            writer.finish_step(step, "fixed")
            if step == 10 and words is not None:
                writer.write(words, table="alternatives")
                writer.finish_step(step, "alternatives")
            writer.flush()
    return path


def detect(path: Path | str, **options: Any) -> rocktok.DetectResult:
    return rocktok.detect(path, **{**LOOSE, **options})


COLUMNS = ("instead", "instead_occurrences", "teacher_on_token", "student_on_token")


def columns_of(result: rocktok.DetectResult) -> dict[int, dict[str, Any]]:
    return {row["token_id"]: {name: row[name] for name in COLUMNS} for row in result.tokens}


# --- the twin ----------------------------------------------------------------------------------


def twin(
    result: rocktok.DetectResult, words: Rows, recorded: tuple[str, ...] = ()
) -> dict[int, dict[str, Any]]:
    """docs/definitions.md in plain loops: type → its columns, of all types in the log."""
    early = with_columns(0, range(SEQUENCES), recorded)
    late = with_columns(10, range(SEQUENCES), recorded)
    known = {
        (int(s), int(p)): i
        for i, (s, p) in enumerate(zip(words["sequence_id"], words["position"], strict=True))
    }
    tau = result.thresholds
    assert tau["tau_pre"] is not None
    assert tau["tau_post"] is not None
    occurrences: dict[int, list[tuple[int, int]]] = {int(v): [] for v in late["token_id"]}
    for row in range(len(late["step"])):
        key = int(late["sequence_id"][row]), int(late["position"][row])
        hard = early["loss"][row] >= tau["tau_pre"] and late["loss"][row] >= tau["tau_post"]
        if hard and key in known:
            occurrences[int(late["token_id"][row])].append((row, known[key]))
    found = {}
    for v, places in occurrences.items():
        sums: dict[str, dict[int, float]] = {"teacher": {}, "student": {}}
        own: dict[str, list[float]] = {"teacher": [], "student": []}
        for row, at in places:
            for model, of_model in sums.items():
                for u, q in zip(
                    words[f"{model}_ids"][at], words[f"{model}_probs"][at], strict=True
                ):
                    if u == v:
                        own[model] += [] if model in recorded else [float(q)]
                    elif u >= 0:
                        of_model[int(u)] = of_model.get(int(u), 0.0) + float(q)
                if model in recorded:
                    own[model].append(float(np.exp(np.float64(late[f"{model}_logprob"][row]))))
        n = len(places)
        best = sorted(sums["teacher"].items(), key=lambda item: (-item[1], item[0]))[:3]
        found[v] = {
            "instead": [
                {"token_id": u, "token": f" t{u}", "teacher": q / n,
                 "student": sums["student"].get(u, 0.0) / n}
                for u, q in best
            ] if n else None,
            "instead_occurrences": n,
            **{f"{model}_on_token": sum(own[model]) / n if n and len(own[model]) == n else None
               for model in own},
        }  # fmt: skip
    return found


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12)
    else:
        assert found == expected


@pytest.mark.parametrize("recorded", [(), ("teacher",), ("student", "teacher")])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_against_plain_loops(recorded: tuple[str, ...], share: float, tmp_path: Path) -> None:
    # Most of ten tokens: some types are among the likeliest at each of their occurrences.
    words = alternatives(rows(10, range(SEQUENCES)), 40, share=share)
    result = detect(write(tmp_path, words, recorded))
    expected = twin(result, words, recorded)
    assert_same(columns_of(result), expected)
    told = [row["teacher_on_token"] is not None for row in expected.values() if row["instead"]]
    assert any(told)
    assert all(told) == ("teacher" in recorded)
    note = "positions have no alternatives at step 10: what the teacher wrote instead rests on"
    assert any(note in text for text in result.notes) == (share < 1)


def test_sampled_losses_are_no_obstacle(tmp_path: Path) -> None:
    words = alternatives(rows(10, range(SEQUENCES)))
    result = detect(write(tmp_path, words, exactness="sampled"))
    assert_same(columns_of(result), twin(result, words))


# --- by hand -----------------------------------------------------------------------------------


def planted(path: Path) -> Path:
    """Token 7 is hard at both steps, and beside it stand 1, 2, 3 and 4 in three of four places."""
    fixed: dict[int, Rows] = {}
    for step in (0, 10):
        fixed[step] = {
            "step": np.full(8, step, np.int32),
            "sequence_id": np.repeat(np.arange(4), 2),
            "position": np.tile(np.arange(2, dtype=np.int32), 4),
            "token_id": np.tile(np.array([5, 7], np.int32), 4),
            "loss": np.tile(np.array([0.01, 2.0], np.float32), 4),
        }
        logs.write_by_hand(path, fixed[step], f"step-{step}")
    hard = picked({k: fixed[10][k] for k in ("step", "sequence_id", "position")},
                  np.array([1, 3, 5]))  # fmt: skip
    words = {
        **hard,
        "teacher_ids": np.array([[1, 2, 7], [1, 3, 7], [4, 2, 3]]),
        "teacher_probs": np.array([[0.5, 0.25, 0.125], [0.5, 0.25, 0.125], [0.75, 0.125, 0.0625]]),
        "student_ids": np.array([[7, 1, 9], [7, 9, 2], [7, 2, 4]]),
        "student_probs": np.array([[0.5, 0.25, 0.125], [0.75, 0.125, 0.0625], [1.0, 0.0, 0.0]]),
    }
    return write_by_hand(path, words, "alternatives")


def test_a_planted_case(tmp_path: Path) -> None:
    result = detect(planted(tmp_path), tau_pre=1.0, tau_post=1.0, quantile_pre=0.8)
    assert columns_of(result) == {
        7: {
            # 0.5 + 0.5; 0.75; 0.25 + 0.125; and of 3, left out, 0.25 + 0.0625: each over three.
            "instead": [
                {"token_id": 1, "token": "<id 1>", "teacher": 1 / 3, "student": 0.25 / 3},
                {"token_id": 4, "token": "<id 4>", "teacher": 0.25, "student": 0.0},
                {"token_id": 2, "token": "<id 2>", "teacher": 0.125, "student": 0.0625 / 3},
            ],
            "instead_occurrences": 3,
            "teacher_on_token": None,
            "student_on_token": 0.75,
        },
        5: dict.fromkeys(COLUMNS) | {"instead_occurrences": 0},
    }


def test_ties_go_to_the_smaller_id_and_others_of_no_probability_are_none() -> None:
    sums = Alternatives(np.array([3]), Thresholds(1.0, 1.0))
    ones = np.ones(2, np.float32)
    sums.update({
        "token_id": np.array([3, 3]), "loss_pre": ones, "loss_post": ones,
        "has_alternatives": np.array([True, False]),
        "teacher_ids": np.array([[8, 5, 9], [6, -1, -1]]),
        "teacher_probs": np.array([[0.25, 0.25, 0.0], [0.5, np.nan, np.nan]], np.float32),
        "student_ids": np.array([[9, 3, 8], [6, -1, -1]]),
        "student_probs": np.array([[0.5, 0.25, 0.125], [0.5, np.nan, np.nan]], np.float32),
    })  # fmt: skip
    others = (Other(5, 0.25, 0.0), Other(8, 0.25, 0.125))
    assert sums.result() == {3: Instead(others, 1, None, 0.25)}
    assert (sums.rows, sums.lacking) == (2, 1)


def test_any_cut_and_order_of_rows_gives_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    n = 400
    batch = {
        "token_id": rng.integers(0, 6, n), "has_alternatives": rng.random(n) < 0.8,
        "loss_pre": rng.random(n).astype(np.float32), "loss_post": rng.random(n).astype(np.float32),
        "teacher_ids": rng.integers(0, 30, (n, 4)), "student_ids": rng.integers(0, 30, (n, 4)),
        "teacher_probs": rng.random((n, 4)).astype(np.float16).astype(np.float32),
        "student_probs": rng.random((n, 4)).astype(np.float16).astype(np.float32),
        "teacher_probability": rng.random(n),
    }  # fmt: skip

    def summed(parts: list[Any]) -> dict[int, Instead]:
        whole = Alternatives(np.arange(5), Thresholds(0.5, 0.5), ("teacher",))
        for part in parts:
            one = Alternatives(np.arange(5), Thresholds(0.5, 0.5), ("teacher",))
            one.update(picked(batch, part))
            one.close()
            whole.merge(one)
        return whole.result()

    first = summed([np.arange(n)])
    assert all(len(found.others) == 3 for found in first.values())
    for size in (1, 7, 100):
        assert summed(np.array_split(rng.permutation(n), -(-n // size))) == first


def test_the_first_types_whose_pairs_fit_are_summed() -> None:
    counts = np.array([10, 1, 1_000_000, 3])
    assert within(counts, 50, 10, 61 + 49) == 3
    assert within(counts, 50, 10, 61 + 48) == 2
    assert within(counts, 50, 10, 49) == 0
    assert within(counts, 1 << 40, 10, 1 << 62) == 4


# --- what a log may lack -----------------------------------------------------------------------


def test_a_log_without_alternatives_says_what_gives_them(tmp_path: Path) -> None:
    result = detect(write(tmp_path, None))
    assert all(set(row.values()) == {None} for row in columns_of(result).values())
    assert result.notes[-1] == (
        "what the teacher wrote instead is unknown: the log has no alternatives/ table; record "
        "with Recorder(alternatives=5), or score saved checkpoints with `rocktok rescore`"
    )
    assert "instead" not in render(result)


def test_a_step_dropped_in_alternatives_alone(tmp_path: Path) -> None:
    path = write(tmp_path, None)
    with LogWriter(
        path, rank=1, world_size=2, attempt=0, run_id=rocktok.open(path).run_id or ""
    ) as writer:
        writer.write(alternatives(rows(0, range(SEQUENCES))), table="alternatives")
        writer.drop_step(10, 480, "full", "alternatives")
    result = detect(path)
    assert all(set(row.values()) == {None} for row in columns_of(result).values())
    assert any(
        "the log has nothing in alternatives/ at step 10; record" in note for note in result.notes
    )


def test_without_persistence_nothing_is_said_of_types_that_are_no_rocks(tmp_path: Path) -> None:
    words = alternatives(rows(10, range(SEQUENCES)))
    result = detect(
        write(tmp_path, words), context="off", all_types=False, rule="tested", eta="auto"
    )
    assert result.tokens
    assert not any(row["is_rock"] for row in result.tokens)
    assert all(set(row.values()) == {None} for row in columns_of(result).values())


@pytest.mark.long
def test_where_the_teacher_knows_nothing_of_the_text_it_says_its_marginal(tmp_path: Path) -> None:
    """Alternatives that do not depend on the position: rocks or not, all types say the same."""
    world = worlds.planted_rocks(500_010, 40, 12)
    path = world.write(tmp_path / "log")
    post = world.rows[world.rows["step"] == world.rows["step"].max()]
    rng = np.random.default_rng(0)
    weights = np.cumsum(1 / np.arange(1, 31) ** 2)
    drawn = [np.searchsorted(weights, rng.random((len(post), 5)) * weights[-1]) for _ in range(2)]
    keys = {name: post[name].to_numpy() for name in ("step", "sequence_id", "position")}
    probability = np.tile(np.array([0.4, 0.2, 0.1, 0.05, 0.025], np.float16), (len(post), 1))
    # Places of one row that name the same token, and so what it says of each, differ by row.
    ids = [_distinct(values_NK) + 5000 for values_NK in drawn]
    write_by_hand(path, {
        **keys, "student_ids": ids[0].astype(np.int32), "student_probs": probability,
        "teacher_ids": ids[1].astype(np.int32), "teacher_probs": probability,
    }, "alternatives")  # fmt: skip
    marginal = {}
    for u in range(5000, 5200):
        value_N = np.where(ids[1] == u, probability.astype(float), 0).sum(axis=1)
        marginal[u] = value_N.mean(), value_N.std()
    result = rocktok.detect(path)
    assert len(result.rocks) >= 8
    assert len(result.tokens) == len(result.rocks)
    everything = rocktok.detect(path, all_types=True)
    assert columns_of(result).items() <= columns_of(everything).items()
    likely = sorted(marginal, key=lambda u: -marginal[u][0])
    for row in everything.tokens:
        n = row["instead_occurrences"] or 0
        assert row["instead"] is None or row["instead_occurrences"] == row["persistent"]
        for other in row["instead"] or () if n >= 30 else ():
            mean, deviation = marginal[other["token_id"]]
            assert abs(other["teacher"] - mean) < 5 * deviation / np.sqrt(n)
            assert other["token_id"] in likely[:6]
    frequent = [row for row in everything.tokens if (row["instead_occurrences"] or 0) >= 30]
    assert {row["is_rock"] for row in frequent} == {True, False}


def _distinct(values_NK: Any) -> Any:
    """Later entries of a row that repeat an earlier one become tokens of their own."""
    same_NKK = values_NK[:, :, None] == values_NK[:, None, :]
    again_NK = np.tril(same_NKK, -1).any(axis=2)
    return np.where(again_NK, 100 + np.arange(values_NK.shape[1]), values_NK)


def test_types_that_do_not_fit_into_memory_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = alternatives(rows(10, range(SEQUENCES)))
    path = write(tmp_path, words)
    whole = detect(path)
    monkeypatch.setattr(instead_passes, "MOST_PAIRS", 150)
    result = detect(path)
    told = [row for row in result.tokens if row["instead_occurrences"]]
    assert 0 < len(told) < len(result.tokens)
    assert columns_of(whole)[told[0]["token_id"]]["instead"] == told[0]["instead"]
    persistent = sum(row["persistent"] > 0 for row in whole.tokens)
    note = f"is given for the first {len(told)} of {persistent} types: sums of more do not fit"
    assert any(note in text for text in result.notes)


# --- however it is cut -------------------------------------------------------------------------


def test_compaction_and_threads_change_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    words = alternatives(rows(10, range(SEQUENCES)), share=0.5)
    path = write(tmp_path / "log", words, ("student", "teacher"))
    whole = detect(path)
    with Engine(3) as engine:
        assert detect(path, engine=engine).to_json() == whole.to_json()
    code, _, error = run_command("compact", path, "-o", tmp_path / "compact")
    assert code == 0, error
    assert columns_of(detect(tmp_path / "compact")) == columns_of(whole)


# --- output ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> rocktok.DetectResult:
    words = alternatives(rows(10, range(SEQUENCES)))
    path = write(tmp_path_factory.mktemp("shown"), words, ("teacher",))
    return detect(path, top_k=8, all_types=False, eta="auto", rule="top-k")


def test_the_terminal_shows_two_others_where_there_is_room(shown: rocktok.DetectResult) -> None:
    row = next(row for row in shown.tokens if row["instead"])
    assert row["instead"]
    first, second = row["instead"][:2]
    cell = (
        f"{first['token']!r} {100 * first['teacher']:.0f}%, "
        f"{second['token']!r} {100 * second['teacher']:.0f}%"
    )
    for view in (View(width=130), View(wide=True)):
        text = render(shown, view)
        assert "teacher wrote instead" in text.split("─")[0]
        assert cell in text
        assert "lower bounds of mean probabilities" in text
    assert "q on token  p on token" in render(shown, View(wide=True))
    narrow = render(shown, View(width=60))
    assert "instead" not in narrow
    assert max(map(len, render(shown, View(width=80, wraps=True)).splitlines())) <= 80


def test_tables_hold_the_others_flat(shown: rocktok.DetectResult) -> None:
    frame = shown.table
    row = next(row for row in shown.tokens if row["instead"])
    assert row["instead"]
    at = row["rank"] - 1
    assert frame["instead"][at].startswith(f"{row['instead'][0]['token']!r} ")
    assert frame["instead"][at].count("%") == len(row["instead"])
    parquet = pq.read_table(io.BytesIO(encode(shown, "parquet"))).to_pylist()[at]
    read = list(csv.DictReader(io.StringIO(encode(shown, "csv").decode())))[at]
    for place, other in enumerate(row["instead"], start=1):
        for name, value in other.items():
            assert parquet[f"instead_{place}_{name}"] == value
            text = read[f"instead_{place}_{name}"]
            assert (text == repr(value)) if name == "token" else (float(text) == value)
    assert "instead" not in parquet
    written = json.loads(shown.to_json())["tokens"][at]["instead"]
    assert written == row["instead"]
    assert list(written[0]) == list(InsteadRow.__annotations__)
