"""The compiled bootstrap over prompts, and what counts prompts by half, against their twins."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.hashing import halves
from rocktok.stats import bootstrap, bootstrap_pairs
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.groups import HalfFacts
from rocktok.stats.halves import half_of_rows
from rocktok.stats.prompts import PromptFloor

QUANTITIES = ("", "loss", "loss²", "signed")

Rows = dict[str, np.ndarray]


def rows_of(seed: int, spread: float = 20.0) -> Rows:
    """Sequences of unlike lengths whose prompts return, losses over many powers of ten."""
    rng = np.random.default_rng(seed)
    length_S = rng.integers(1, 40, 60)
    rows = int(length_S.sum())
    return {
        "sequence_id": np.repeat(np.arange(60), length_S),
        "prompt": np.repeat(rng.integers(0, 17, 60).astype(np.uint64) << np.uint64(55), length_S),
        "token_id": (rng.zipf(1.3, rows) % 50).astype(np.int32),
        "loss": (10.0 ** rng.uniform(-spread, 3, rows)).astype(np.float32),
        "signed": rng.normal(size=rows),
    }


def whole_sequences(rows: Rows, cuts: list[int]) -> list[Rows]:
    at = np.searchsorted(rows["sequence_id"], [0, *sorted(cuts), 60])
    return [{name: values[a:b] for name, values in rows.items()} for a, b in pairwise(at)]


def bootstrap_of(tasks: list[list[Rows]], types: np.ndarray, *, compiled: bool) -> PromptBootstrap:
    """Tasks of batches, each task closed, sent and merged as the engine does."""
    whole = PromptBootstrap(types, QUANTITIES, 3, 30, compiled=compiled)
    for batches in tasks:
        one = PromptBootstrap(types, QUANTITIES, 3, 30, compiled=compiled)
        for batch in batches:
            one.update(batch)
        one.close()
        whole.merge(pickle.loads(pickle.dumps(one)))
    return whole


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 9_999),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    types=st.lists(st.integers(0, 60), max_size=12, unique=True),
    limits=st.sampled_from([(1 << 23, 1 << 24, 1 << 17), (240, 93, 90), (1 << 23, 93, 1 << 17)]),
)
def test_the_compiled_bootstrap_has_the_bits_of_the_other(
    seed: int, cuts: list[int], types: list[int], limits: tuple[int, int, int]
) -> None:
    rows, ids = rows_of(seed), np.array(types, dtype=np.int64)
    plain = bootstrap_of([[rows]], ids, compiled=False)
    parts = whole_sequences(rows, cuts)
    with pytest.MonkeyPatch.context() as patched:
        # Weighed at the end, or before, a few prompts and types at a time.
        for name, value in zip(("_WAITING", "_WEIGHTS", "_AT_ONCE"), limits, strict=True):
            patched.setattr(bootstrap, name, value)
        patched.setattr(PromptBootstrap, "_weighted_bytes", 0)
        patched.setattr(bootstrap_pairs, "_PARTS", 2)
        for tasks in ([parts], [[part] for part in parts], [[part] for part in parts[::-1]]):
            made = bootstrap_of(tasks, ids, compiled=True)
            assert np.array_equal(made.sum_TM, plain.sum_TM)
            assert np.array_equal(made.sum_BTM, plain.sum_BTM)
            assert np.array_equal(made.largest_M, plain.largest_M)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9_999), compiled=st.booleans(), threads=st.integers(1, 3))
def test_types_of_a_kind_are_added_up(seed: int, compiled: bool, threads: int) -> None:
    rows, ids = rows_of(seed, spread=3.0), np.array([31, 2, 5, 3, 11, 1])
    kind_T = np.array([2, 0, 1, 0, 0, 1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bootstrap, "_AT_ONCE", 90)
        each = PromptBootstrap(ids, QUANTITIES, 3, 30, compiled=compiled)
        kinds = PromptBootstrap(
            ids, QUANTITIES, 3, 30, compiled=compiled, kind_T=kind_T, threads=threads
        )
        for one in (each, kinds):
            one.update(rows)
        sum_BTM = kinds.sum_BTM
    # Places of the ascending ids 1, 2, 3, 5, 11 and 31, and of all others.
    for kind, places in enumerate(([1, 2, 4], [0, 3], [5], [6])):
        expected_BM = each.sum_BTM[:, places].sum(axis=1)
        np.testing.assert_allclose(sum_BTM[:, kind], expected_BM, rtol=1e-13, atol=1e-13)
        assert np.array_equal(sum_BTM[:, kind, 0], expected_BM[:, 0])
    assert kinds.places(np.array([5, 31, 1, 999])).tolist() == [1, 2]
    assert kinds.places(np.array([], dtype=np.int64)).tolist() == []
    whole, parts = each.of("loss"), kinds.of("loss")
    assert parts.value == pytest.approx(whole.value, rel=1e-13)
    np.testing.assert_allclose(parts.effect, whole.effect, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_made_of_each_type_is_that_of_its_sums(
    monkeypatch: pytest.MonkeyPatch, weighed: bool, threads: int
) -> None:
    """A few types at a time, and whether their pairs have been weighed before or not."""
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 900)
    if weighed:
        monkeypatch.setattr(bootstrap, "_WAITING", 0)
        monkeypatch.setattr(PromptBootstrap, "_weighted_bytes", 0)
    made = PromptBootstrap(
        np.array([1, 2, 3, 30]), QUANTITIES, 3, 30, compiled=True, threads=threads
    )
    made.update(rows_of(7))
    found = made.by_type(2, lambda sums: [sums[3] / (1 + sums[0]), sums[0]])
    assert found.shape == (2, 5, 31)
    count, signed = made.sum_TM[:, 0], made.sum_TM[:, 3]
    assert np.array_equal(found[:, :, 0], [signed / (1 + count), count])
    count_BT, signed_BT = made.sum_BTM[..., 0], made.sum_BTM[..., 3]
    assert np.array_equal(found[..., 1:], [(signed_BT / (1 + count_BT)).T, count_BT.T])


def test_digits_that_higher_grids_leave_behind_are_lost_alike() -> None:
    """Losses that grow a thousandfold from task to task, and types that wait meanwhile."""
    tasks = []
    for number in range(6):
        rows = rows_of(number, spread=4.0)
        tasks.append([{**rows, "loss": rows["loss"] * np.float32(1e3**number)}])
    ids = np.array([1, 2, 30])
    plain = bootstrap_of([[rows] for (rows,) in tasks], ids, compiled=False)
    for order in (tasks, tasks[::-1], [[rows for (rows,) in tasks]]):
        made = bootstrap_of(order, ids, compiled=True)
        assert np.array_equal(made.sum_BTM, plain.sum_BTM)


def test_sums_of_two_prompts_by_hand() -> None:
    made = PromptBootstrap(np.array([7]), ("", "loss"), 0, 4, compiled=True)
    made.update({
        "sequence_id": np.array([0, 0, 1, 2]),
        "prompt": np.array([5, 5, 6, 5], dtype=np.uint64),
        "token_id": np.array([7, 8, 7, 900_000], dtype=np.int32),
        "loss": np.array([0.5, 2.0, 0.25, 4.0], dtype=np.float32),
    })  # fmt: skip
    assert made.sum_TM.tolist() == [[2.0, 0.75], [2.0, 6.0]]
    five_B, six_B = bootstrap.poisson_weights(0, 4, np.array([5, 6], dtype=np.uint64))
    assert np.array_equal(made.sum_BTM[:, 0, 0], five_B + six_B)
    assert np.array_equal(made.sum_BTM[:, 0, 1], 0.5 * five_B + 0.25 * six_B)
    assert np.array_equal(made.sum_BTM[:, 1, 1], 6.0 * five_B)


def test_many_rows_of_a_type_in_one_prompt() -> None:
    """The largest digits there are, of either sign, as often as no single pair could hold."""
    rows = 5_000
    sign_N = np.where(np.arange(rows) % 10 < 8, 1.0, -1.0)
    batch = {
        "sequence_id": np.zeros(rows, np.int64),
        "prompt": np.full(rows, 9, np.uint64),
        "token_id": np.where(np.arange(rows) < 4_000, 7, 8).astype(np.int32),
        "loss": np.full(rows, 2.0**22 - 1),
        "signed": sign_N * (2.0**44 - 1),
    }
    one, plain = (
        PromptBootstrap(np.array([7]), ("", "loss", "signed"), 0, 9, compiled=compiled)
        for compiled in (True, False)
    )
    for made in (one, plain):
        made.update(batch)
    signed = [2_400 * (2.0**44 - 1), 600 * (2.0**44 - 1)]
    assert one.sum_TM[0].tolist() == [4_000, 4_000 * (2.0**22 - 1), signed[0]]
    assert one.sum_TM[1].tolist() == [1_000, 1_000 * (2.0**22 - 1), signed[1]]
    assert np.array_equal(one.sum_BTM, plain.sum_BTM)


def test_a_bootstrap_of_zeros_and_one_of_nothing() -> None:
    rows = {**rows_of(1), "loss": np.zeros(len(rows_of(1)["loss"]), np.float32)}
    one, nothing = (
        PromptBootstrap(np.array([2]), ("", "loss"), 0, 9, compiled=True) for _ in range(2)
    )
    one.update(rows)
    nothing.merge(PromptBootstrap(np.array([2]), ("", "loss"), 0, 9, compiled=True))
    assert not nothing.sum_BTM.any()
    nothing.merge(one)
    assert not nothing.sum_BTM[..., 1].any()
    assert nothing.sum_TM[:, 0].sum() == len(rows["loss"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9_999), cut=st.integers(0, 60), exact=st.booleans())
def test_facts_of_the_halves_are_those_of_each_half(seed: int, cut: int, exact: bool) -> None:
    rows = rows_of(seed, spread=3.0)
    half_N = halves(rows["prompt"], 7)
    assert np.array_equal(half_of_rows(rows["prompt"], 7), half_N)
    found = []
    for compiled in (False, True):
        whole = HalfFacts(7, exact=exact, compiled=compiled)
        for part in whole_sequences(rows, [cut]):
            one = HalfFacts(7, exact=exact, compiled=compiled)
            one.update(part) if len(part["loss"]) else None
            whole.merge(pickle.loads(pickle.dumps(one)))
        found.append(whole)
    plain, compiled = (facts.result() for facts in found)
    for name in ("token_T", "frequency_HT", "prompts_HT", "loss_HT"):
        assert np.array_equal(getattr(plain, name), getattr(compiled, name))
    for half in range(2):
        for t, v in enumerate(plain.token_T.tolist()):
            here = (rows["token_id"] == v) & (half_N == half)
            assert plain.frequency_HT[half, t] == here.sum()
            assert plain.prompts_HT[half, t] == min(5, len(set(rows["prompt"][here].tolist())))
            assert plain.loss_HT[half, t] == pytest.approx(
                rows["loss"][here].astype(float).sum(), rel=1e-12
            )
    if not exact:
        squares = np.bincount(rows["token_id"], rows["loss"].astype(float) ** 2)
        both_T = found[1].squares(plain.token_T).sum(axis=0)
        np.testing.assert_allclose(both_T, squares[plain.token_T], rtol=1e-12)


def test_a_type_of_one_half_alone_and_the_largest_id() -> None:
    prompt = next(p for p in range(99) if halves(np.array([p], np.uint64), 0)[0] == 1)
    for compiled in (False, True):
        facts = HalfFacts(0, compiled=compiled)
        facts.update({
            "token_id": np.array([4], np.int32),
            "prompt": np.array([prompt], np.uint64),
            "loss": np.array([0.5], np.float32),
        })  # fmt: skip
        found = facts.result()
        assert found.token_T.tolist() == [4]
        assert found.frequency_HT.tolist() == [[0], [1]]
        assert found.prompts_HT.tolist() == [[0], [1]]
        assert facts.squares(found.token_T).tolist() == [[0.0], [0.25]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9_999), cut=st.integers(0, 3_000), travels=st.booleans())
def test_compiled_prompts_are_counted_up_to_the_floor(seed: int, cut: int, travels: bool) -> None:
    rng = np.random.default_rng(seed)
    token_N = (rng.zipf(1.4, 3_000) % 40).astype(np.int32)
    prompt_N = rng.integers(0, 9, 3_000).astype(np.uint64) << np.uint64(60)
    whole = PromptFloor(5, compiled=True)
    for part in (slice(0, cut), slice(cut, None)):
        one = PromptFloor(5, compiled=True)
        one.update({"token_id": token_N[part], "prompt": prompt_N[part]})
        whole.merge(pickle.loads(pickle.dumps(one)) if travels else one)
    expected = [min(5, len(set(prompt_N[token_N == v].tolist()))) for v in range(40)]
    assert whole.result(40).tolist()[:40] == expected
