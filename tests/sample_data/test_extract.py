"""Small logs out of large ones: what is kept is right to the digits said, and as much as fits."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.log import LogWriter
from rocktok.log.gradients import load_gradients
from tests import gradient_logs
from tests.logs import alternatives_rows, rows, sequence_rows
from tests.paths import ROOT, SAMPLE
from tests.processes import run_command

sys.path.append(str(ROOT / "sample_data"))

import extract
import make_demo
from extract import Extract

RUN = {"vocab_size": 60, "loss": {"exactness": "exact"}, "extra": {"trainer": "none"}}
TEXTS = [(i, f"t{i}", b"t%d" % i) for i in range(60)]
STEPS = (0, 10, 20, 30)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extract") / "log"
    with LogWriter(path, columns=["grad_norm", "overlap"], run=RUN, vocab=TEXTS) as writer:
        described = sequence_rows(range(12))
        described["prompt_token_ids"] = [[50 + i % 3, 55] for i in range(12)]
        writer.write(described, table="sequences")
        for step in STEPS:
            batch = rows(step, range(12))
            batch |= {"grad_norm": batch["loss"] / 3, "overlap": np.float32(0.5)}
            writer.write(batch, table="fixed")
            writer.write(alternatives_rows(step, range(12)), table="alternatives")
    return path


def values(log: Path, table: str, step: int, names: list[str]) -> dict[str, np.ndarray]:
    parts = [part.columns for part in rocktok.open(log).scan(table, names, [step])]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((found["position"], found["sequence_id"]))
    return {name: values[order] for name, values in found.items()}


@settings(deadline=None)
@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False,
              min_value=-(2.0**100), max_value=2.0**100),
    st.integers(1, 23),
)  # fmt: skip
def test_rounding_is_to_the_nearest_and_once_for_all(value: float, bits: int) -> None:
    exact = np.array([value], np.float32)
    (once,) = extract.rounded(exact, bits)
    assert abs(float(once) - value) <= abs(value) * 2.0 ** -(bits + 1)
    assert extract.rounded(np.array([once]), bits)[0] == once
    assert not int(np.array([once]).view(np.uint32)[0]) & ((1 << (23 - bits)) - 1)


def test_rounding_by_hand() -> None:
    given = np.array([1.0, 1.125, 1.25, 1.375, 1.5, -1.75, 1.96875, 0.0], np.float32)
    expected = [1.0, 1.0, 1.0, 1.5, 1.5, -2.0, 2.0, 0.0]
    assert extract.rounded(given, 1).tolist() == expected
    assert extract.rounded(np.arange(3), 1).tolist() == [0, 1, 2]


def test_what_is_kept(log: Path, tmp_path: Path) -> None:
    wanted = Extract(
        {"fixed": (0, 30), "alternatives": (30,)}, ("grad_norm",),
        {"loss": 9, "fixed.grad_norm": 4},
        texts=8, alternatives=2, used=True,
    )  # fmt: skip
    size = extract.write(rocktok.open(log), tmp_path / "small", wanted)
    small = rocktok.open(tmp_path / "small")
    assert size == sum(p.stat().st_size for p in (tmp_path / "small").rglob("*") if p.is_file())
    assert (small.complete_steps("fixed"), small.complete_steps("alternatives")) == ([0, 30], [30])
    names = ["token_id", "loss", "grad_norm"]
    assert set(small.columns("fixed")) == {"step", "sequence_id", "position", *names}
    for step in (0, 30):
        was, now = (values(path, "fixed", step, names) for path in (log, tmp_path / "small"))
        kept = was["sequence_id"] < 8
        for name in ("sequence_id", "position", "token_id"):
            np.testing.assert_array_equal(was[name][kept], now[name])
        for name, bits in (("loss", 9), ("grad_norm", 4)):
            np.testing.assert_array_equal(extract.rounded(was[name][kept], bits), now[name])
    likeliest = values(tmp_path / "small", "alternatives", 30, ["student_ids", "teacher_ids"])
    assert likeliest["student_ids"].shape[1] == likeliest["teacher_ids"].shape[1] == 2
    used = {
        *values(tmp_path / "small", "fixed", 0, ["token_id"])["token_id"].tolist(),
        *likeliest["student_ids"].ravel().tolist(),
        *likeliest["teacher_ids"].ravel().tolist(),
        50, 51, 52, 55,
    }  # fmt: skip
    assert set(small.vocab.texts) == used
    assert small.facts.tokens == len(TEXTS)
    assert (small.run_id, small.run["created_at"]) == (
        rocktok.open(log).run_id, rocktok.open(log).run["created_at"],
    )  # fmt: skip
    assert small.run["extra"] == {
        "trainer": "none",
        "extract": {
            "steps_left_out": {"fixed": [10, 20], "alternatives": [0, 10, 20]},
            "columns_left_out": ["overlap"],
            "mantissa_bits": {"loss": 9, "fixed.grad_norm": 4},
        },
    }
    code, _, error = run_command("info", tmp_path / "small", "--verify")
    assert code == 0, error


def test_an_unused_token_is_no_padding(log: Path, tmp_path: Path) -> None:
    """`check` knows how many tokens there are, though those that do not occur are not listed."""
    wanted = Extract({"fixed": STEPS}, (), texts=4, used=True)
    extract.write(rocktok.open(log), tmp_path / "small", wanted)
    found = {one["name"]: one for one in rocktok.check(tmp_path / "small", rocks=()).findings}
    assert found["vocabulary"]["details"]["tokens"] == len(TEXTS)
    assert found["vocabulary"]["text"] == "Every id in the text is a token."


def test_as_many_texts_are_kept_as_fit(log: Path, tmp_path: Path) -> None:
    wanted, opened = Extract({"fixed": STEPS}, ("grad_norm",)), rocktok.open(log)
    sizes = {
        texts: extract.write(opened, tmp_path / "x", replace(wanted, texts=texts))
        for texts in (4, 8, 12)
    }
    assert sizes[4] < sizes[8] < sizes[12]
    for limit, texts in ((sizes[12], 12), (sizes[12] - 1, 8), (sizes[8], 8), (sizes[8] - 1, 4)):
        chosen, size = make_demo.fit(opened, tmp_path / "y", wanted, limit)
        assert (chosen.texts, size) == (texts, sizes[texts])
        assert len(extract.text_ids(rocktok.open(tmp_path / "y"))) == texts
    with pytest.raises(click.ClickException, match="not even 4 texts fit in"):
        make_demo.fit(opened, tmp_path / "y", wanted, sizes[4] - 1)


def test_steps_are_spread() -> None:
    assert make_demo.spread([8, 100, 200, 300, 400, 500], 3) == (8, 200, 500)
    assert make_demo.spread([8, 500], 3) == (8, 500)
    assert make_demo.spread([0, 1, 2, 3, 4], 2) == (0, 4)


def test_gradient_sums_are_kept(tmp_path: Path) -> None:
    gradient_logs.write(
        tmp_path / "log", gradient_logs.frame(0), gradients=gradient_logs.gradient_rows()
    )
    opened = rocktok.open(tmp_path / "log")
    steps = tuple(opened.complete_steps("gradients"))
    wanted = Extract({"fixed": tuple(opened.complete_steps("fixed")), "gradients": steps[-1:]}, ())
    extract.write(opened, tmp_path / "small", wanted)
    small = rocktok.open(tmp_path / "small")
    assert small.complete_steps("gradients") == [steps[-1]]
    was, now = load_gradients(opened, steps[-1]), load_gradients(small)
    for name in ("token_T", "count_HT", "norm_HT", "vector_HTW", "global_HW", "balanced_HW"):
        np.testing.assert_array_equal(getattr(was, name), getattr(now, name))


def test_the_sample_is_what_its_last_stage_makes(tmp_path: Path) -> None:
    """Slimmed again it stays the same: it was written by this code with these settings."""
    opened = rocktok.open(SAMPLE)
    extract.write(opened, tmp_path / "again", extract.sample(opened))
    names = {p.relative_to(SAMPLE) for p in SAMPLE.rglob("*") if p.is_file()}
    assert names == {
        p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()
    }
    for name in names:
        if name.suffix == ".parquet":
            assert pq.read_table(SAMPLE / name).equals(pq.read_table(tmp_path / "again" / name))
    assert rocktok.open(tmp_path / "again").run == opened.run


def test_the_sample_is_small() -> None:
    assert extract.size_of(SAMPLE) <= 4_000_000
