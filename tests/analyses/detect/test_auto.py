"""Similarity "auto": hidden states where the log has them, else windows, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import rocktok
from rocktok.analyses.detect import auto
from rocktok.analyses.detect.cutoff_passes import params_of
from rocktok.analyses.detect.params import DetectParams
from rocktok.analyses.detect.windows import SketchCount
from rocktok.engine.passes import Engine
from rocktok.errors import LogError
from rocktok.report.page.content import facts
from tests.analyses.detect.test_detect_twin import RandomLog
from tests.analyses.detect.test_hidden import sketches_of, write_contexts
from tests.processes import run_command

#: Losses of these logs are of few values.
LOW = {"quantile_pre": 0.5, "quantile_post": 0.5}


def write(path: Path, missing: float | None = 0.1, seed: int = 5, **options: Any) -> Path:
    """A log with contexts for all but a share of its positions; None: without contexts/."""
    log = RandomLog(seed, positions=420, tokens=25, **options)
    log.write(path)
    return path if missing is None else write_contexts(path, log, sketches_of(log, missing))


def detect(path: Path, **options: Any) -> rocktok.DetectResult:
    return rocktok.detect(path, rule="top-k", all_types=True, **{**LOW, **options})


def content(result: rocktok.DetectResult) -> dict[str, Any]:
    """All of a result but what was asked for."""
    found = json.loads(result.to_json())
    del found["params"]["similarity_given"]
    return found


def notes_on_contexts(result: rocktok.DetectResult) -> list[str]:
    return [note for note in result.notes if "windows of tokens" in note]


def counted(rows: int, missing: int) -> SketchCount:
    count = SketchCount()
    count.rows, count.missing = rows, missing
    return count


@pytest.mark.parametrize(
    ("options", "count", "has_contexts", "expected", "said"),
    [
        ({}, counted(100, 0), True, "hidden", None),
        ({}, counted(100, 50), True, "hidden", None),
        ({}, counted(100, 51), True, "surprisal", "for 49 of 100 positions, fewer than half"),
        ({}, counted(100, 100), True, "surprisal", "for 0 of 100 positions"),
        ({}, None, False, "surprisal", None),
        ({"window": 8}, None, True, "surprisal", "because of --window,"),
        ({"window": 8}, None, False, "surprisal", None),
        ({"gamma": 0.5}, None, True, "surprisal", "because of --min-similarity,"),
        ({"window": 3, "gamma": 0.5}, None, True, "surprisal", "--window and --min-similarity,"),
        ({"similarity": "surprisal"}, counted(100, 0), True, "surprisal", None),
        ({"similarity": "jaccard", "window": 2}, None, True, "jaccard", None),
        ({"similarity": "hidden", "gamma": 0.5}, None, True, "hidden", None),
    ],
)
def test_what_auto_stands_for(
    options: dict[str, Any],
    count: SketchCount | None,
    has_contexts: bool,
    expected: str,
    said: str | None,
) -> None:
    chosen = auto.choose(DetectParams(**options), count, has_contexts=has_contexts)
    assert chosen.params.similarity == expected
    assert (len(chosen.notes), said is None or said in chosen.notes[0]) == (said is not None, True)
    # Whatever else was asked for stays.
    assert chosen.params == DetectParams(**{**options, "similarity": expected})


def test_auto_is_hidden_where_contexts_are_recorded(tmp_path: Path) -> None:
    path = write(tmp_path / "log")
    found = detect(path)
    assert found.similarity == "hidden"
    assert found.params["similarity"] == "hidden"
    assert found.params["similarity_given"] == "auto"
    assert content(found) == content(detect(path, similarity="hidden"))
    assert any(row["retained"] for row in found.tokens)
    assert content(found)["tokens"] != content(detect(path, similarity="surprisal"))["tokens"]
    assert not notes_on_contexts(found)
    # The options of a result give that result again.
    assert params_of(found) == params_of(detect(path, similarity="hidden"))


def test_auto_is_surprisal_without_contexts(tmp_path: Path) -> None:
    path = write(tmp_path / "log", missing=None)
    found = detect(path)
    assert (found.similarity, found.params["similarity_given"]) == ("surprisal", "auto")
    assert content(found) == content(detect(path, similarity="surprisal"))
    assert (found.params["window"], found.thresholds["gamma"]) == (8, 0.5)
    assert not notes_on_contexts(found)


def test_files_are_the_same(tmp_path: Path) -> None:
    """Byte for byte; a table of Parquet names the options in its metadata."""
    for missing, similarity in ((0.1, "hidden"), (None, "surprisal")):
        path = write(tmp_path / similarity, missing=missing)
        written = []
        for given in ("auto", similarity):
            file = tmp_path / f"{similarity}-{given}.csv"
            arguments = ["--all", "--similarity", given, "-o", file, "--quantile-pre", "0.5"]
            assert run_command("detect", path, *arguments)[0] == 0
            written.append(file.read_bytes())
        assert written[0] == written[1]
        assert written[0].count(b"\n") > 10


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocktok.log.tasks.TASK_ROWS", 100)
    for missing, expected in ((0.3, "hidden"), (0.7, "surprisal")):
        path = write(tmp_path / expected, missing=missing)
        answers = []
        for jobs in (1, 3):
            with Engine(jobs) as engine:
                found = detect(path, engine=engine)
            assert found.similarity == expected
            answers.append(found.to_json())
        assert answers[0] == answers[1]


def test_contexts_for_a_part_of_the_text(tmp_path: Path) -> None:
    some, few = write(tmp_path / "some", 0.3), write(tmp_path / "few", 0.7)
    found = detect(some)
    assert found.similarity == "hidden"
    assert [note for note in found.notes if "have no row in contexts/" in note]
    assert not notes_on_contexts(found)
    found = detect(few)
    assert found.similarity == "surprisal"
    (note,) = notes_on_contexts(found)
    assert "fewer than half; --similarity hidden judges only those" in note
    assert "no row in contexts/" not in " ".join(found.notes)
    assert detect(few, similarity="hidden").similarity == "hidden"
    code, printed, said = run_command("detect", few)
    assert code == 0
    assert said.count("contexts are windows of tokens, as contexts/ has hidden states for") == 1
    assert "contexts (auto): windows of 8 tokens on each side" in printed


def test_contexts_of_other_text_are_none(tmp_path: Path) -> None:
    log = RandomLog(8, positions=300)
    path = log.write(tmp_path / "log")
    row = next(row for row in log.tables["fixed"])
    log.tables["fixed"].append(row._replace(sequence_id=77, position=0))
    write_contexts(path, log, {(77, 0): 1})
    found = detect(path)
    assert found.similarity == "surprisal"
    (note,) = notes_on_contexts(found)
    assert "for 0 of" in note
    with pytest.raises(LogError, match="contexts/ has no rows for the positions in fixed/"):
        detect(path, similarity="hidden")


def test_options_of_windows_are_not_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "log")
    for options, named in (
        ({"window": 4}, "--window"),
        ({"gamma": 0.4}, "--min-similarity"),
        ({"window": 4, "gamma": 0.4}, "--window and --min-similarity"),
    ):
        found = detect(path, **options)
        assert (
            content(found)["tokens"]
            == content(detect(path, similarity="surprisal", **options))["tokens"]
        )
        assert notes_on_contexts(found) == [
            f"contexts are windows of tokens because of {named}, although contexts/ has hidden "
            "states; leave it out, or give --similarity hidden, to compare these"
        ]
        assert not notes_on_contexts(detect(path, similarity="surprisal", **options))
    code, printed, said = run_command("detect", path, "--window", 4)
    assert code == 0
    assert said.count("because of --window, although") == 1
    assert "contexts (auto): windows of 4 tokens on each side, similar if rarity-w" in printed
    code, printed, said = run_command("detect", path, "--window", 4, "--similarity", "hidden")
    assert (code, printed) == (2, "")
    assert said.startswith("rocktok: --window has no meaning with similarity 'hidden'")


def test_nothing_is_compared_without_an_earlier_step(tmp_path: Path) -> None:
    path = write(tmp_path / "log")
    for options in ({"context": "off"}, {"table": "rollout"}, {"context": "off", "window": 4}):
        found = rocktok.detect(path, **options)  # type: ignore[arg-type]
        assert (found.similarity, found.params["similarity"]) == (None, "auto")
        assert not notes_on_contexts(found)
        assert params_of(found) == DetectParams(**{**options, "quantile_post": 0.8,
                                                   "rule": "tested", "window": None})  # fmt: skip


def test_wrong_contexts_are_refused(tmp_path: Path) -> None:
    """Never a quiet fall back to windows, which would be another answer."""
    log = RandomLog(5, positions=420, tokens=25)
    sketches = sketches_of(log)
    path = log.write(tmp_path / "log")
    row = min(log.tables["fixed"])
    some = row.sequence_id
    log.tables["fixed"].append(row._replace(position=999))
    write_contexts(path, log, {**sketches, (some, 999): 1})
    answers = [run_command("detect", path, "--similarity", kind) for kind in ("auto", "hidden")]
    assert answers[0] == answers[1]
    code, printed, said = answers[0]
    assert (code, printed, said.count("\n")) == (1, "", 1)
    assert f"sequence {some}, position 999" in said
    assert "is not in fixed/" in said
    # Who asks for windows does not read them.
    assert detect(path, window=4).similarity == "surprisal"


def test_every_result_with_rocks_says_it(tmp_path: Path) -> None:
    for missing, expected in ((0.1, "hidden"), (None, "surprisal")):
        path = write(tmp_path / expected, missing, steps=3)
        for shard in (path / "fixed").rglob("*.parquet"):
            rows = pq.read_table(shard)
            pq.write_table(rows.append_column("grad_norm", rows["loss"]), shard)
        quick: dict[str, Any] = {"replicates": 100}
        found = [
            rocktok.stability(path, repeats=2, **quick),
            rocktok.stagnation(path, **quick),
            rocktok.lenses(path, **quick),
            rocktok.attribute(path, **quick),
        ]
        (row,) = rocktok.summary(path).runs
        assert row["similarity"] == expected
        for result in found:
            assert result.log["similarity"] == expected, type(result)
            line = {"hidden": "hidden states of the teacher", "surprisal": "windows of tokens (su"}
            assert f"contexts of rocks: {line[expected]}" in repr(result), type(result)


def test_rocks_found_in_different_ways_are_told_apart(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one"), write(tmp_path / "other", missing=None)
    said = f"for that alone (hidden: {one}; surprisal: {other})"
    assert sum(said in note for note in rocktok.summary(one, other).notes) == 1
    compared = rocktok.compare(one, other)
    assert [each["similarity"] for each in compared.log] == ["hidden", "surprisal"]
    assert sum(said in note for note in compared.notes) == 1
    files = []
    for path in (one, other):
        files.append(tmp_path / f"{path.name}.json")
        assert run_command("detect", path, "--similarity", "surprisal", "-o", files[-1])[0] == 0
    compared = rocktok.compare(*files)
    assert [each["similarity"] for each in compared.log] == ["surprisal", "surprisal"]
    assert not any("different ways" in note for note in compared.notes)


def test_occurrences_hold_what_was_compared(tmp_path: Path) -> None:
    path, file = write(tmp_path / "log"), tmp_path / "occurrences.parquet"
    found = rocktok.occurrences(path, file, rule="top-k", **LOW)
    assert (found.params["similarity"], found.params["similarity_given"]) == ("hidden", "auto")
    assert 0 < found.params["gamma"] < 1
    given = rocktok.occurrences(path, rule="top-k", similarity="hidden", **LOW)
    assert given.tokens == found.tokens
    rocks = tmp_path / "rocks.json"
    quantiles = ("--quantile-pre", "0.5", "--quantile-post", "0.5")
    code, _, said = run_command("detect", path, "--top-k", 5, *quantiles, "-o", rocks)
    assert code == 0, said
    arguments = (rocks, "--occurrences", file, "--radius", 1, "-o", tmp_path / "w.json")
    code, printed, said = run_command("weights", *arguments)
    assert (code, printed) == (1, "")
    assert "run `rocktok occurrences` again with --similarity positional" in said


@pytest.mark.parametrize(
    ("missing", "similarity", "said"),
    [
        (0.1, "hidden", "hidden states of the teacher, similar if cosine ≥ "),
        (None, "surprisal", "windows of 8 tokens on each side, similar if rarity-weighted"),
    ],
)
def test_the_page_says_it(
    tmp_path: Path, missing: float | None, similarity: str, said: str
) -> None:
    path = write(tmp_path / "log", missing)
    found = rocktok.report(path, rule="top-k", replicates=100, sequences=1, lifts=False, **LOW)
    assert str(facts(found)["contexts (auto)"]).startswith(said)
    assert found.detect.similarity == similarity
