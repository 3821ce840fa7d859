"""`occurrences`: by hand, against a brute-force twin, and the same verdicts as `detect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.analyses.occurrences import file_passes, judged, round_passes
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.log import tasks
from tests import twin
from tests.analyses.occurrences.occurrence_logs import frame, write
from tests.logs import rows as plain_rows
from tests.logs import write_by_hand, write_log
from tests.processes import run_command

Row = dict[str, Any]

TAU: dict[str, Any] = {"tau_pre": 0.4, "tau_post": 0.4}


def read(path: Path) -> pa.Table:
    return pq.read_table(path)


def listed(log: Path | str, out: Path, **options: Any) -> tuple[Any, dict[tuple[int, int], Row]]:
    """The result, and the rows of the file by sequence and position."""
    result = rocktok.occurrences(log, out, force=True, **options)
    table = read(out)
    keys = list(zip(table["sequence_id"].to_pylist(), table["position"].to_pylist(), strict=True))
    assert keys == sorted(set(keys))
    return result, dict(zip(keys, table.to_pylist(), strict=True))


# --- by hand -----------------------------------------------------------------------------------


def test_the_example_of_the_definitions(tmp_path: Path) -> None:
    """Two of type 7 are persistent; a third, in a third prompt, is not, but its context is."""
    text = [[1, 7, 2, 3], [1, 7, 2, 4], [1, 7, 2, 3]]
    pre = [[0.0, 2.0, 0.1, 0.1], [0.0, 1.0, 0.1, 0.5], [0.0, 0.1, 0.1, 0.1]]
    post = [[0.0, 2.0, 0.1, 0.1], [0.0, 1.0, 0.1, 0.0], [0.0, 0.1, 0.1, 0.1]]
    rows = pd.DataFrame(
        {
            "sequence_id": np.repeat([0, 1, 2], 4),
            "position": np.tile(np.arange(4), 3),
            "token_id": np.ravel(text),
            "pre": np.ravel(pre).astype(np.float32),
            "post": np.ravel(post).astype(np.float32),
            "prompt": np.repeat([0, 1, 2], 4),
        }
    )
    options = {"window": 1, "similarity": "bag", "eta": 0.5, "tau_pre": 0.9, "tau_post": 0.9}
    log = write(tmp_path / "log", rows)
    result, found = listed(log, tmp_path / "o.parquet", **options)
    first = {
        "sequence_id": 0, "position": 1, "token_id": 7, "pre_loss": 2.0, "post_loss": 2.0,
        "retained": True, "rock": True, "partners": [{"sequence_id": 1, "position": 1}],
        "similar_count": 2, "persistent_similar_count": 1, "context_left": [1],
        "context_right": [2],
    }  # fmt: skip
    second = {
        **first, "sequence_id": 1, "pre_loss": 1.0, "post_loss": 1.0,
        "partners": [{"sequence_id": 0, "position": 1}],
    }  # fmt: skip
    assert list(found.values()) == [first, second]
    assert result.totals == {
        "positions": 12, "persistent": 2, "judged": 2, "retained": 2, "rocks": 1,
        "rock_persistent": 2, "rock_retained": 2,
    }  # fmt: skip
    (row,) = result.tokens
    assert (row["token"], row["frequency"], row["similar"]) == ("t7", 3, 2.0)
    assert repr(result).startswith(
        "2 persistent occurrences of 1 token type; 2 are of 1 rock, and 2 of these are retained.\n"
        "Every one was judged; 2 of them are retained.\n"
    )


# --- against a twin ----------------------------------------------------------------------------


def expected(rows: pd.DataFrame, options: dict[str, Any], most: int) -> dict[tuple[int, int], Row]:
    """By sequence and position; without `rock`."""
    corpus = [
        twin.Occurrence(sequence, position, v, prompt, float(pre), float(post))
        for sequence, position, v, pre, post, prompt in rows.itertuples(index=False)
    ]  # fmt: skip
    texts: dict[int, dict[int, int]] = {}
    frequency: dict[int, int] = {}
    for o in corpus:
        texts.setdefault(o.sequence_id, {})[o.position] = o.token_id
        frequency[o.token_id] = frequency.get(o.token_id, 0) + 1
    w, rule = options["window"], options["partners"]
    _, persistent = twin.persistent_occurrences(corpus, "high", 0.8, None, 0.4, 0.4)
    similarity = twin.Similarity(options["similarity"], w, options["gamma"], frequency, None)
    drawn = sorted(corpus, key=lambda o: twin.position_hash(0, o.sequence_id, o.position))
    found: dict[tuple[int, int], Row] = {}
    for v, o_ph in persistent.items():
        _, kept = twin.context_of_type(v, o_ph, drawn, texts, similarity, rule, options["eta"])
        for o in o_ph:
            mine = similarity.context(texts, o)
            alike = [
                other
                for other in corpus
                if other.token_id == v
                and twin.may_be_partners(rule, o, other)
                and similarity.similar(mine, similarity.context(texts, other))
            ]
            hard = [other for other in alike if other in o_ph]

            def far(other: twin.Occurrence, mine: Any = mine) -> Any:
                value = similarity.value(mine, similarity.context(texts, other))
                assert value is not None
                return (-round(value, 9), other.sequence_id, other.position)

            around = dict(twin.window(texts[o.sequence_id], o.position, w))
            found[o.sequence_id, o.position] = {
                "token_id": v,
                "pre_loss": o.pre,
                "post_loss": o.post,
                "retained": None if kept is None else o in kept,
                "partners": [
                    {"sequence_id": p.sequence_id, "position": p.position}
                    for p in sorted(hard, key=far)[:most]
                ],
                "similar_count": len(alike),
                "persistent_similar_count": len(hard),
                "context_left": [around.get(k, -1) for k in range(-w, 0)],
                "context_right": [around.get(k, -1) for k in range(1, w + 1)],
            }
    return found


@pytest.mark.parametrize(
    ("similarity", "partners", "eta", "gamma"),
    [
        ("surprisal", "other-prompt", "auto", 0.4),
        pytest.param("bag", "other-sequence", 0.1, 0.5, marks=pytest.mark.long),
        pytest.param("jaccard", "all", "auto", 0.3, marks=pytest.mark.long),
        ("positional", "other-prompt", 0.02, 0.25),
    ],
)
def test_against_the_twin(
    similarity: str, partners: str, eta: Any, gamma: float, tmp_path: Path
) -> None:
    rows = frame(seed=3)
    options = {
        "similarity": similarity, "partners": partners, "eta": eta, "gamma": gamma, "window": 2,
    }  # fmt: skip
    log = write(tmp_path / "log", rows)
    _, found = listed(log, tmp_path / "o.parquet", list_partners=2, **options, **TAU)
    wanted = expected(rows, options, 2)
    assert len(found) > 60
    assert any(row["retained"] for row in found.values())
    assert any(row["similar_count"] > row["persistent_similar_count"] for row in found.values())
    keys = {"sequence_id", "position", "rock"}
    assert {
        place: {name: value for name, value in row.items() if name not in keys}
        for place, row in found.items()
    } == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"window": 2},
        {"window": 2, "persistence": "recalcitrant", "partners": "all"},
        {"similarity": "hidden"},
        {"similarity": "hidden", "eta": 0.2, "gamma": 0.5},
        {"window": 2, "similarity": "embedding", "gamma": 0.8},
    ],
    ids=str,
)
def test_the_counts_are_those_of_detect(options: dict[str, Any], tmp_path: Path) -> None:
    if options.get("similarity") == "embedding":
        options = {**options, "embeddings": np.random.default_rng(0).normal(size=(50, 4))}
    if options.get("persistence") != "recalcitrant":
        options = {**options, **TAU}
    log = write(tmp_path / "log", frame(seed=5), sketched=0.9)
    result, found = listed(log, tmp_path / "o.parquet", **options)
    detected = rocktok.detect(log, all_types=True, replication=False, **options)
    by_type = pd.DataFrame(list(found.values())).groupby("token_id")
    persistent, retained = by_type.size(), by_type["retained"].sum()
    rock = by_type["rock"].first()
    shown = {row["token_id"]: row for row in result.tokens}
    hard = [row for row in detected.tokens if row["persistent"]]
    assert {row["token_id"] for row in hard} == set(shown) == set(persistent.index)
    for row in hard:
        v = row["token_id"]
        assert shown[v]["persistent"] == row["persistent"] == persistent[v]
        assert shown[v]["retained"] == row["retained"]
        assert retained[v] == (row["retained"] or 0)
        assert bool(rock[v]) == shown[v]["rock"] == row["is_rock"]
    if options.get("similarity") == "hidden":
        # A place without a sketch before it has a row, and no verdict.
        alone = [row for row in found.values() if row["similar_count"] is None]
        assert alone
        assert all(row["partners"] is None and row["retained"] is None for row in alone)
        assert any("hidden" in note for note in result.notes)


# --- rounds, samples, threads ------------------------------------------------------------------


def test_jobs_rounds_and_tasks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(tmp_path / "log", frame(seed=3))
    options: dict[str, Any] = {"window": 2, "gamma": 0.4, **TAU}
    rocktok.occurrences(log, tmp_path / "whole.parquet", engine=Engine(1), **options)
    monkeypatch.setattr(tasks, "TASK_ROWS", 100)
    monkeypatch.setattr(round_passes, "ROUND_WINDOWS", 60)
    engine = Engine(3)
    rocktok.occurrences(log, tmp_path / "parts.parquet", engine=engine, **options)
    assert engine.passes > 10
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "parts.parquet").read_bytes()
    monkeypatch.setattr(file_passes, "ROW_GROUP", 16)
    rocktok.occurrences(log, tmp_path / "groups.parquet", **options)
    groups = pq.ParquetFile(tmp_path / "groups.parquet")
    sizes = [groups.metadata.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert set(sizes[:-1]) == {16}
    assert groups.read().equals(read(tmp_path / "whole.parquet"))
    # Nothing is left beside the outputs.
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "groups.parquet", "log", "parts.parquet", "whole.parquet",
    ]  # fmt: skip


def test_types_with_very_many_others_are_compared_as_they_are_read(tmp_path: Path) -> None:
    log = write(tmp_path / "log", frame(seed=2, types=2))
    options: dict[str, Any] = {"window": 2, "gamma": 0.8, "eta": 0.01, **TAU}
    _, whole = listed(log, tmp_path / "a.parquet", **options)
    _, streamed = listed(log, tmp_path / "b.parquet", cap=100, **options)
    assert whole == streamed
    assert max(row["similar_count"] for row in whole.values()) > 100


def test_of_too_frequent_types_a_sample_is_judged(tmp_path: Path) -> None:
    log = write(tmp_path / "log", frame(seed=2, types=2))
    options: dict[str, Any] = {"window": 1, "gamma": 1.0, "eta": 0.3, "tau_pre": 0.02,
                               "tau_post": 0.02}  # fmt: skip
    _, whole = listed(log, tmp_path / "a.parquet", **options, exact=True, cap=100)
    result, sampled = listed(log, tmp_path / "b.parquet", **options, cap=100, list_partners=0)
    assert whole.keys() == sampled.keys()
    for v in (0, 1):
        places = [place for place, row in sampled.items() if row["token_id"] == v]
        drawn = sorted(places, key=lambda place: twin.position_hash(0, *place))[:100]
        assert {p for p in places if sampled[p]["retained"] is not None} == set(drawn)
        for place in drawn:
            for name in ("retained", "similar_count", "persistent_similar_count"):
                assert sampled[place][name] == whole[place][name]
    detected = rocktok.detect(log, all_types=True, replication=False, **options, cap=100)
    for row in detected.tokens:
        (mine,) = (one for one in result.tokens if one["token_id"] == row["token_id"])
        assert mine["judged"] == 100
        assert row["retained"] == round(mine["retained"] * row["persistent"] / 100)
    assert "of types above --cap a sample is judged" in result.notes[-1]
    assert f"{len(sampled) - 200} have no verdict" in repr(result)


def test_partners_are_looked_for_among_a_sample_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged, "LOOKED_AT", 5)
    log = write(tmp_path / "log", frame(seed=2, types=2))
    _, found = listed(log, tmp_path / "a.parquet", window=1, gamma=0.5, eta=0.01, **TAU)
    for v in (0, 1):
        places = [place for place, row in found.items() if row["token_id"] == v]
        drawn = set(sorted(places, key=lambda place: twin.position_hash(0, *place))[:5])
        partners = {
            (p["sequence_id"], p["position"]) for place in places for p in found[place]["partners"]
        }
        assert partners
        assert partners <= drawn


def test_on_noise_few_are_retained(tmp_path: Path) -> None:
    """Losses that know nothing of the text: η retains at most 5%, but for ties and chance."""
    shares = []
    for seed in range(3):
        log = write(tmp_path / f"{seed}", frame(seed=seed, sequences=120, types=6))
        result = rocktok.occurrences(log, window=2, gamma=0.5, **TAU)
        assert result.totals["judged"] > 250
        shares.append(result.totals["retained"] / result.totals["judged"])
    assert np.mean(shares) < 0.08


# --- the file, and bad input -------------------------------------------------------------------


def test_the_metadata_says_where_it_is_from(tmp_path: Path) -> None:
    log = rocktok.open(write(tmp_path / "log", frame(seed=3)))
    result, _ = listed(str(tmp_path / "log"), tmp_path / "o.parquet", window=3, **TAU)
    table = read(tmp_path / "o.parquet")
    assert [field.type for field in table.schema] == [field.type for field in file_passes.SCHEMA]
    about = json.loads(table.schema.metadata[b"rocktok"])
    assert about["schema"] == "rocktok.occurrences/1"
    assert about["log"]["run_id"] == log.run_id
    assert about["steps"] == {"pre": 0, "post": 10}
    assert about["parameters"] == result.params
    assert (about["parameters"]["gamma"], about["parameters"]["window"]) == (0.5, 3)
    assert about["tokenizer"]["identity"] == log.vocab.identity
    assert about["rocktok"] == rocktok.__version__
    with file_passes.open_occurrences(tmp_path / "o.parquet") as file:
        assert file.about == about
        assert sum(len(group) for group in file.groups(["position"])) == len(table)


def test_no_occurrence_at_all(tmp_path: Path) -> None:
    log = write(tmp_path / "log", frame(seed=3))
    result, found = listed(log, tmp_path / "o.parquet", tau_pre=99.0, tau_post=99.0)
    assert (found, result.tokens, result.totals["persistent"]) == ({}, (), 0)
    assert repr(result).startswith("0 persistent occurrences of 0 token types; none is of a rock.")


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"list_partners": -1}, UsageError, "list_partners is -1; it must be 0 or more"),
        ({"context": "off"}, LogError, "occurrences are those that persist, but it was switched"),
        ({"pre": 10}, UsageError, "pre is step 10"),
        ({"window": 0}, UsageError, "window is 0"),
        ({"similarity": "hidden"}, LogError, "has no contexts/ table"),
        ({"listpartners": 1}, TypeError, "did you mean 'list_partners'"),
    ],
)
def test_bad_options(
    options: dict[str, Any], error: type[Exception], why: str, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log")
    with pytest.raises(error, match=why):
        rocktok.occurrences(log, tmp_path / "o.parquet", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_on_the_command_line(tmp_path: Path) -> None:
    log = write(tmp_path / "log", frame(seed=3))
    out = tmp_path / "o.parquet"
    words = ("--window", 2, "--tau-pre", 0.4, "--tau-post", 0.4, "--list-partners", 1, "--top", 2)
    code, printed, error = run_command("occurrences", log, *words, "-o", out)
    assert (code, error) == (0, "")
    result = rocktok.occurrences(log, window=2, list_partners=1, **TAU)
    assert printed.startswith("\n".join(result.answer()))
    assert "… 10 more types (--all)" in printed
    assert printed.endswith(f"{log}\nwritten to {out}\n")
    before = out.read_bytes()
    code, printed, error = run_command("occurrences", log, "-o", out)
    assert (code, printed) == (2, "")
    assert error == f"rocktok: {out}: exists already; give --force to replace it\n"
    assert out.read_bytes() == before
    code, _, error = run_command("occurrences", log, "-o", "-")
    assert code == 2
    assert "-: the output is a file; give its name" in error
    rollouts = write_by_hand(tmp_path / "rollouts", plain_rows(0, [0]), table="rollout")
    code, printed, error = run_command("occurrences", rollouts, "-o", tmp_path / "no.parquet")
    assert (code, printed) == (1, "")
    assert error.count("\n") == 1
    assert "context is required, but rollout/" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "o.parquet", "rollouts"]


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", "none", "other"], ids=["empty", "cut", "missing", "other"]
)
def test_a_file_that_is_none(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "other":
        pq.write_table(pa.table({"x": [1]}), path)
    with (
        pytest.raises(LogError, match="give what `rocktok occurrences LOG"),
        file_passes.open_occurrences(path),
    ):
        pass
