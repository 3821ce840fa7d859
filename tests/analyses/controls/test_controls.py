"""`controls`: matched sets by hand, their balance, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

import rocktok
from rocktok.analyses.controls.matched import CALIPER, DEVIATIONS
from rocktok.engine.passes import Engine
from rocktok.errors import LogError, UsageError
from rocktok.log import LogWriter
from rocktok.stats.matching import balance
from tests.logs import RUN
from tests.paths import SAMPLE
from tests.processes import run_command as run

ROCKS = (0, 1, 2, 3, 4)


def write(path: Path, cut: int = 1, sequences: int = 300, tokens: int = 16) -> Path:
    """Types 0 … 39; harder the smaller the id, and all of some frequency."""
    rng = np.random.default_rng(3)
    text = rng.integers(0, 40, (sequences, tokens))
    loss = rng.exponential(1.0, text.shape) * (1 + (40 - text) / 40)
    frame = pd.DataFrame(
        {
            "step": 5,
            "sequence_id": np.repeat(np.arange(sequences), tokens),
            "position": np.tile(np.arange(tokens), sequences),
            "token_id": text.ravel(),
            "loss": loss.ravel().astype(np.float32),
        }
    )
    # Sequences of unlike length.
    frame = frame[frame["position"] < 6 + frame["sequence_id"] % 11]
    with LogWriter(path, run=RUN) as writer:
        ids = np.arange(sequences)
        writer.write(
            {"sequence_id": ids, "step": 0, "num_tokens": tokens,
             "prompt_id": [f"p{i // 2}" for i in ids]},
            table="sequences",
        )  # fmt: skip
        for piece in range(cut):
            part = frame[frame["sequence_id"] % cut == piece]
            writer.write(part, table="fixed")
            writer.flush()
        writer.finish_step(5, "fixed")
    return path


def controls(path: Path, **options: Any) -> Any:
    return rocktok.controls(rocktok.open(path), **{"rocks": ROCKS, "window": 2, **options})


def rows_of(path: Path) -> pd.DataFrame:
    frame = pd.concat(pd.read_parquet(p) for p in (path / "fixed").rglob("*.parquet"))
    frame["loss"] = frame["loss"].astype(float)
    return frame.sort_values(["sequence_id", "position"], ignore_index=True)


def test_types_are_within_the_caliper(tmp_path: Path) -> None:
    path = write(tmp_path / "log")
    result = controls(path)
    by = rows_of(path).groupby("token_id")["loss"].agg(["size", "mean"])
    for kind, column in (("frequency", "size"), ("loss", "mean")):
        found = result.kinds[kind]
        rocks, others = zip(*found["pairs"], strict=True)
        assert not set(others) & set(ROCKS)
        assert len(set(others)) == len(others)
        assert set(rocks) | set(found["unmatched"]) == set(ROCKS)
        apart = np.abs(np.log10(by[column][list(rocks)].to_numpy())
                       - np.log10(by[column][list(others)].to_numpy()))  # fmt: skip
        assert (apart <= CALIPER).all()
        row = found["balance"][("frequency", "loss").index(kind)]
        logs = np.log10(by[column])
        ours, theirs = logs[list(ROCKS)], logs[[v for v in by.index if v not in ROCKS]]
        spread = ((ours.var(ddof=0) + theirs.var(ddof=0)) / 2) ** 0.5
        assert row["smd_before"] == pytest.approx((ours.mean() - theirs.mean()) / spread)
        after = logs[list(rocks)].mean() - logs[list(others)].mean()
        assert row["smd_after"] == pytest.approx(after / spread)


def test_occurrences_are_like_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "log")
    result = controls(path, occurrences=120)
    frame = rows_of(path)
    frame["length"] = frame.groupby("sequence_id")["position"].transform("size")
    last = frame.groupby("sequence_id")["position"].transform("max")
    frame["relative"] = frame["position"] / last
    frame["log_loss"] = np.log10(frame["loss"])
    frame["log_length"] = np.log10(frame["length"])
    at = frame.set_index(["sequence_id", "position"])
    found = result.kinds["occurrence"]
    assert len(found["pairs"]) + len(found["unmatched"]) == 120
    assert len(found["pairs"]) > 80
    ours = at.loc[[tuple(a[:2]) for a, _ in found["pairs"]] +
                  [tuple(a[:2]) for a in found["unmatched"]]]  # fmt: skip
    for column in ("relative", "log_length", "log_loss"):
        caliper = DEVIATIONS * ours[column].std(ddof=0)
        for a, b in found["pairs"]:
            assert (
                abs(at.loc[tuple(a[:2]), column] - at.loc[tuple(b[:2]), column]) <= caliper + 1e-6
            )
    for a, b in found["pairs"]:
        assert at.loc[tuple(a[:2]), "token_id"] == a[2]
        assert at.loc[tuple(b[:2]), "token_id"] == b[2]
        assert a[2] in ROCKS
        assert b[2] not in ROCKS
    assert len({tuple(b) for _, b in found["pairs"]}) == len(found["pairs"])


def test_windows_hold_as_many_rocks_by_brute_force(tmp_path: Path) -> None:
    """Every pair is within the calipers, and no matching within them has more pairs."""
    path = write(tmp_path / "log", sequences=90)
    matched = controls(path, occurrences=100_000).kinds["window"]
    frame = rows_of(path)
    count = frame["token_id"].value_counts()
    texts = {s: part["token_id"].tolist() for s, part in frame.groupby("sequence_id")}

    def facts(sequence: int, at: int) -> tuple[int, int, float]:
        text = texts[sequence]
        beside = text[max(0, at - 2) : at] + text[at + 1 : at + 3]
        logs = [np.log10(count[v]) for v in beside]
        return sum(v in ROCKS for v in beside), len(beside), float(np.mean(logs))

    is_rock = frame["token_id"].isin(ROCKS)
    lost = frame.loc[is_rock, "loss"]
    like = frame["loss"].between(lost.min(), lost.max())
    sides = [
        np.array([facts(int(s), int(p)) for s, p in part[["sequence_id", "position"]].to_numpy()])
        for part in (frame[is_rock], frame[~is_rock & like])
    ]
    # Fewer than are kept of each bin of losses: all of them are candidates.
    assert len(sides[1]) < 1_000
    caliper = DEVIATIONS * sides[0].std(axis=0)
    apart = np.abs(sides[0][:, None] - sides[1][None])
    able = (apart[..., 0] == 0) & (apart[..., 1:] <= caliper[1:] + 1e-12).all(axis=2)
    most = int((maximum_bipartite_matching(csr_matrix(able)) >= 0).sum())
    assert len(matched["pairs"]) == most > 100
    assert len(matched["pairs"]) + len(matched["unmatched"]) == is_rock.sum()
    seen = set()
    for ours, theirs in matched["pairs"]:
        one, other = facts(*ours[:2]), facts(*theirs[:2])
        assert one[0] == other[0]
        assert (np.abs(np.subtract(one, other)) <= caliper + 1e-12)[1:].all()
        assert (ours[2] in ROCKS, theirs[2] in ROCKS) == (True, False)
        seen.add(one[0])
    # Not only where there is no rock beside it.
    assert seen >= {0, 1, 2}
    row = matched["balance"][0]
    assert row["covariate"] == "rocks in window"
    assert row["smd_after"] == 0
    ours, theirs = (side[:, 0] for side in sides)
    spread = ((ours.var() + theirs.var()) / 2) ** 0.5
    assert row["smd_before"] == pytest.approx((ours.mean() - theirs.mean()) / spread)


def test_any_workers_and_any_cut_give_the_same(tmp_path: Path) -> None:
    found = [
        controls(write(tmp_path / f"{cut}-{jobs}", cut), engine=Engine(jobs=jobs)).kinds
        for cut, jobs in ((1, 1), (1, 3), (4, 2))
    ]
    assert found[0] == found[1]
    assert [row["pairs"] for row in found[0].values()] == [r["pairs"] for r in found[2].values()]


def test_balance_by_hand() -> None:
    ours, theirs = np.array([[1.0], [3.0]]), np.array([[0.0], [2.0], [4.0]])
    row = balance(("x",), ours, theirs, np.array([[0, 0], [1, 2]]))[0]
    # Variances 1 and 8/3; means 2 and 2 before, 2 and 2 after.
    assert (row["smd_before"], row["smd_after"], row["pairs"]) == (0.0, 0.0, 2)
    row = balance(("x",), ours, theirs, np.array([[1, 0]]))[0]
    assert row["smd_after"] == pytest.approx(3 / ((1 + 8 / 3) / 2) ** 0.5)
    assert balance(("x",), ours, theirs, np.zeros((0, 2), int))[0]["smd_after"] is None


def test_attribute_takes_them(tmp_path: Path) -> None:
    file = tmp_path / "controls.json"
    assert run("controls", SAMPLE, "--kind", "loss", "-o", file)[0] == 0
    pairs = json.loads(file.read_text())["kinds"]["loss"]["pairs"]
    code, text, _ = run("attribute", SAMPLE, "--controls", file, "--control-kind", "loss",
                        "--replicates", 100, "--format", "json")  # fmt: skip
    assert code == 0
    members = json.loads(text)["members"]
    assert members["control_pairs"] == pairs
    assert members["control"] == sorted(other for _, other in pairs)
    assert members["control_source"] == "given"
    code, _, said = run("attribute", SAMPLE, "--controls", file)
    assert (code, said) == (
        1, f"rocktok: {file}: contains no pairs by frequency; choose another kind, or write it "
        "again\n"
    )  # fmt: skip
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    code, _, said = run("attribute", SAMPLE, "--controls", bad)
    assert (code, said) == (
        1,
        f"rocktok: {bad}: is not a result of `rocktok controls`; give what `rocktok controls LOG "
        "--format json -o FILE` writes\n",
    )


def test_bad_input(tmp_path: Path) -> None:
    path = write(tmp_path / "log")
    message = (
        r"none of the 1 rocks occurs in fixed/ at step 5; give rocks of this log, or another --step"
    )
    with pytest.raises(LogError, match=message):
        controls(path, rocks=(45,))
    with pytest.raises(LogError, match="fixed/ has no step 7"):
        controls(path, step=7)
    with pytest.raises(UsageError, match="occurrences is 0; it must be 1 or more"):
        controls(path, occurrences=0)
    with pytest.raises(UsageError, match="kinds has 'x'; choose from frequency, loss"):
        controls(path, kinds=("x",))


def written(path: Path, text: np.ndarray, loss: np.ndarray) -> Path:
    """Sequences of one prompt each, at steps 5 and 6."""
    count, tokens = text.shape
    rows = {"sequence_id": np.repeat(np.arange(count), tokens),
            "position": np.tile(np.arange(tokens), count).astype(np.int32),
            "token_id": text.ravel().astype(np.int32),
            "loss": loss.ravel().astype(np.float32)}  # fmt: skip
    with LogWriter(path, run=RUN) as writer:
        listed = {"sequence_id": np.arange(count), "step": 0, "num_tokens": tokens,
                  "prompt_id": [f"p{i}" for i in range(count)]}  # fmt: skip
        writer.write(listed, table="sequences")
        for step in (5, 6):
            writer.write({"step": step, **rows}, table="fixed")
            writer.finish_step(step, "fixed")
    return path


def test_why_nothing_was_matched(tmp_path: Path) -> None:
    text = np.tile(np.arange(8), (60, 1))
    # The rocks lose nothing at first, all others the same.
    lost = controls(written(tmp_path / "a", text, np.where(text < 5, 0.0, 1.0)))
    nothing = "no occurrence of a rock has a loss at this step, so there is nothing to match"
    assert [lost.kinds[kind]["pairs"] for kind in ("occurrence", "window")] == [[], []]
    assert lost.kinds["occurrence"]["unmatched"] == []
    assert {f"occurrence: {nothing}", f"window: {nothing}"} <= set(lost.notes)
    assert "loss: nothing could be matched within the caliper" in lost.notes
    assert len(lost.kinds["frequency"]["pairs"]) == 3
    assert lost.answer()[0].startswith("There are controls for 3 of 5 rocks by frequency")
    loss = controls(tmp_path / "a", kinds=("loss",))
    assert loss.answer() == [
        "There are controls for 0 of 5 rocks by loss.",
        "Nothing was matched; the notes say why.",
    ]
    # Ten prompts: no type stands 20 times in each half.
    few = controls(written(tmp_path / "b", text[:10], np.ones((10, 8))))
    for kind in ("frequency", "loss"):
        assert (
            f"{kind}: no type except the rocks occurs 20 times and in 5 prompts in each half of "
            "the prompts"
        ) in few.notes
    # A rock is next to each of the others, which is no reason to leave one alone.
    beside = np.tile([0, 5, 1, 6, 2, 7, 3, 8], (60, 1))
    loss = np.random.default_rng(0).exponential(1.0, beside.shape)
    crowded = controls(written(tmp_path / "c", beside, loss), kinds=("window",))
    assert crowded.kinds["window"]["pairs"]
    assert not any("window" in note for note in crowded.notes)
    # Two rocks are beside type 2, and beside no other type; one is beside types 1, 3 and 4.
    rows = np.tile([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], (60, 1))
    loss = np.random.default_rng(0).exponential(1.0, rows.shape)
    alone = controls(written(tmp_path / "e", rows, loss), kinds=("window",), rocks=(1, 2, 3),
                     window=1)  # fmt: skip
    assert {tuple(place[2] for place in pair) for pair in alone.kinds["window"]["pairs"]} == {
        (1, 4), (3, 4)
    }  # fmt: skip
    apart = np.full(beside.shape, 9.0)
    apart[beside < 5] = 1.0
    found = controls(written(tmp_path / "d", beside, apart), kinds=("occurrence",))
    assert found.notes[-1] == (
        "occurrence: no occurrence of another type has a loss similar to that of the rocks"
    )


def test_no_rocks_are_found(tmp_path: Path) -> None:
    # One prompt: no occurrence has a partner from another.
    path = written(tmp_path / "log", np.arange(20)[None], np.arange(1.0, 21.0)[None])
    assert run("controls", path) == (
        1,
        "",
        f"rocktok: {path}: `detect` finds no rocks in fixed/ with its default options, so there is "
        "nothing to match; give --rocks, as from `rocktok detect --rule top-k -o FILE`\n",
    )


def test_the_command(tmp_path: Path) -> None:
    # By the paper's rule: there are so many of these that no window is free of them.
    rocks = tmp_path / "rocks.json"
    assert run("detect", SAMPLE, "--rule", "top-k", "-o", rocks)[0] == 0
    code, table, notes = run("controls", SAMPLE, "--rocks", rocks)
    assert code == 0
    answer, how_sure, *rest = table.splitlines()
    assert re.fullmatch(
        r"There are controls for \d+ of 92 rocks by frequency, \d+ by loss, and for \d+ of 1,000 "
        r"occurrences by position and loss, \d+ by window\.", answer
    )  # fmt: skip
    assert how_sure.startswith("Not balanced, in standard deviations: log10 mean loss by freq")
    assert max(map(len, rest)) <= 80
    assert rest[-1] == str(SAMPLE)
    assert notes == ""
    pairs = re.search(r"^window +rocks in window +([\d,]+) ", table, re.MULTILINE)
    assert pairs is not None
    assert int(pairs[1].replace(",", "")) > 500
    target = tmp_path / "pairs.csv"
    assert run("controls", SAMPLE, "--kind", "frequency", "-o", target)[0] == 0
    table = pd.read_csv(target)
    assert set(table["kind"]) == {"frequency"}
    assert table["rock_sequence_id"].isna().all()


def test_tokens_stand_beside_their_ids(tmp_path: Path) -> None:
    target = tmp_path / "controls.json"
    assert run("controls", SAMPLE, "--occurrences", 60, "-o", target)[0] == 0
    found = json.loads(target.read_text())
    vocab = rocktok.open(SAMPLE).vocab
    texts = found["token_texts"]
    assert all(text == vocab.text(int(v)) for v, text in texts.items())
    held = {v for kind in ("frequency", "loss") for v in found["kinds"][kind]["unmatched"]}
    held |= {v for kind in ("frequency", "loss") for pair in found["kinds"][kind]["pairs"]
             for v in pair}  # fmt: skip
    for kind in ("occurrence", "window"):
        held |= {place[2] for place in found["kinds"][kind]["unmatched"]}
        held |= {place[2] for pair in found["kinds"][kind]["pairs"] for place in pair}
    assert set(map(int, texts)) == held | set(found["log"]["rocks"])
    _, text, _ = run("controls", SAMPLE, "--occurrences", 60)
    alone = found["kinds"]["frequency"]["unmatched"]
    first = ", ".join(repr(texts[str(v)]) for v in alone[:5])
    assert f"frequency: no match for the types\n  {first}, " in text
    sequence, position, v = found["kinds"]["window"]["unmatched"][0]
    assert f"  {sequence}:{position} {texts[str(v)]!r}, " in text
    table = pd.read_csv(_csv(tmp_path))
    for side in ("rock", "control"):
        ids = table[f"{side}_token_id"]
        assert table[f"{side}_token"].tolist() == [repr(texts[str(v)]) for v in ids]


def _csv(tmp_path: Path) -> Path:
    target = tmp_path / "pairs.csv"
    assert run("controls", SAMPLE, "--occurrences", 60, "-o", target)[0] == 0
    return target
