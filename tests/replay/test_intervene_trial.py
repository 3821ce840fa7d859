"""Arms that share the baseline's prefix against the plain loop that writes each from its start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.replay.intervene.arms import (
    Candidate,
    Plan,
    completions_with,
    placebo_contexts,
    placebos,
)
from rocktok.replay.intervene.backend import Decoding
from rocktok.replay.intervene.draws import gumbel, gumbel_on, row_keys, stream_of
from rocktok.replay.intervene.edits import edit_distance, edit_share
from rocktok.replay.intervene.rules import MISSING, Contexts, before
from rocktok.replay.intervene.trial import AFTER, Case, Trial
from tests.replay.toy_student import END, VOCABULARY, ToyBackend, logits, written_whole

PROMPTS = [[1, 2], [3], [4, 5, 6]]


def make_trial(
    temperature: float, *, longest: int = 14, seeds: tuple[int, ...] = (0,), rollouts: int = 1,
    every: bool = False, batch_tokens: int = 40,
) -> Trial:  # fmt: skip
    decoding = Decoding(longest, temperature, (END,))
    return Trial(
        ToyBackend(decoding), decoding, [np.array(p, np.int32) for p in PROMPTS],
        [Case(p, s, r) for p in range(len(PROMPTS)) for s in seeds for r in range(rollouts)],
        [f"p{i}" for i in range(len(PROMPTS))],
        lambda place, text_T: (int(text_T.sum()) + place) % 2 == 0,
        True, batch_tokens, every,
    )  # fmt: skip


def levenshtein(a: list[int], b: list[int]) -> int:
    """The table of the textbook."""
    table = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(b) + 1)]
             for i in range(len(a) + 1)]  # fmt: skip
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1,
                              table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))  # fmt: skip
    return table[-1][-1]


windows = st.lists(
    st.lists(st.integers(MISSING, VOCABULARY - 1), min_size=2, max_size=2), min_size=1, max_size=3
)


@settings(max_examples=40, deadline=None)
@given(
    token=st.integers(0, VOCABULARY - 1),
    mode=st.sampled_from(["ban", "ban-in-context", "replace"]),
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    seed=st.integers(0, 5),
    left=windows,
    gamma=st.sampled_from([0.5, 1.0]),
    every=st.booleans(),
)
def test_a_shared_prefix_changes_nothing(
    token: int, mode: str, temperature: float, seed: int, left: list[list[int]], gamma: float,
    every: bool,
) -> None:  # fmt: skip
    trial = make_trial(temperature, seeds=(seed,), rollouts=2 if temperature else 1, every=every)
    contexts = Contexts(np.array(left, np.int32), gamma) if mode == "ban-in-context" else None
    plan = Plan(Candidate(token), mode, contexts)
    baseline = trial.baseline()
    first_N = trial.first_places(plan, baseline)
    acted = trial.arm(plan, baseline, first_N)
    fired = np.flatnonzero(first_N >= 0)
    own = dict(
        zip(fired.tolist(), trial.completions(plan, baseline, fired, first_N[fired]), strict=True)
    )
    for case, one in enumerate(trial.cases):
        arguments = PROMPTS[one.problem], trial.decoding, trial.stream(case)
        plain, _ = written_whole(*arguments, None)
        text, first = written_whole(*arguments, plan, every=every)
        assert baseline.texts[case].tolist() == plain
        assert first_N[case] == (-1 if first is None else first)
        # An arm that acts nowhere is the baseline, also where it is written from its start.
        assert (own[case].tolist() if case in own else plain) == text
        assert acted.tokens_N[case] == len(text)
        assert acted.truncated_N[case] == (len(text) == 14 and text[-1] != END)
        assert baseline.truncated_N[case] == (len(plain) == 14 and plain[-1] != END)
        assert acted.correct_N[case] == ((sum(text) + one.problem) % 2 == 0)
        if first is None:
            assert np.isnan([acted.loss_N[case], acted.base_loss_N[case], acted.edit_N[case]]).all()
            continue
        behind = slice(first + 1, first + 1 + AFTER)
        check_behind(trial, case, text, plain, behind, acted)


def check_behind(trial, case, text, plain, behind, acted) -> None:  # type: ignore[no-untyped-def]
    prompt = PROMPTS[trial.cases[case].problem]
    for ids, values_N in ((text, acted.loss_N), (plain, acted.base_loss_N)):
        losses = []
        for place in range(*behind.indices(len(ids))):
            p, q = (np.exp(v := logits([*prompt, *ids[:place]], who)) / np.exp(v).sum()
                    for who in (0, 1))  # fmt: skip
            losses.append((p * np.log(p / q)).sum())
        if losses:
            assert values_N[case] == pytest.approx(np.mean(losses), rel=1e-5, abs=1e-6)
        else:
            assert np.isnan(values_N[case])
    longer = max(len(text[behind]), len(plain[behind]))
    if longer:
        assert acted.edit_N[case] == levenshtein(text[behind], plain[behind]) / longer
    else:
        assert np.isnan(acted.edit_N[case])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batches_change_nothing_and_prefixes_are_not_written_again(temperature: float) -> None:
    results = []
    for batch_tokens in (1, 10_000):
        trial = make_trial(temperature, batch_tokens=batch_tokens, rollouts=3 if temperature else 1)
        baseline = trial.baseline()
        plan = Plan(Candidate(int(np.bincount(np.concatenate(baseline.texts)).argmax())), "ban")
        first_N = trial.first_places(plan, baseline)
        backend = trial.backend
        assert isinstance(backend, ToyBackend)
        backend.generated.clear()
        results.append(trial.arm(plan, baseline, first_N))
        assert sorted(start for start, _ in backend.generated) == sorted(first_N[first_N >= 0])
        assert (first_N > 0).any()
    for one, other in zip(*(vars(r).values() for r in results), strict=True):
        np.testing.assert_array_equal(one, other)


def test_baselines_differ_by_their_number_and_seeds_by_theirs() -> None:
    trial = make_trial(1.0, seeds=(0, 1))
    texts = [tuple(map(tuple, trial.baseline(n).texts)) for n in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][::2] != texts[0][1::2]
    assert trial.baseline(1).scores is None


# -- draws -----------------------------------------------------------------------------------------


def test_draws_follow_the_softmax() -> None:
    wanted = np.array([0.5, 0.25, 0.15, 0.1])
    key_B = row_keys(np.full(5_000, stream_of(3, 0, "p", 0), np.uint64), np.arange(5_000))
    picked = (np.log(wanted) + gumbel(key_B, 4)).argmax(axis=1)
    share = np.bincount(picked, minlength=4) / len(picked)
    # Four standard errors.
    np.testing.assert_array_less(abs(share - wanted), 4 * np.sqrt(wanted / len(picked)))


def test_draws_on_a_device_are_the_same() -> None:
    key_B = row_keys(np.array([0, 1, 2**64 - 1], np.uint64), np.array([0, 5, 2**40]))
    ours, theirs = gumbel(key_B, 1000), gumbel_on(key_B, 1000, "cpu").numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-12)
    assert theirs.dtype == torch.empty(0, dtype=torch.float64).numpy().dtype
    assert len(np.unique(ours)) == ours.size
    # A wider vocabulary keeps the draws of the narrower.
    np.testing.assert_array_equal(gumbel(key_B, 10), ours[:, :10])


def test_streams_differ() -> None:
    streams = {
        stream_of(seed, baseline, problem, rollout)
        for seed in (-1, 0, 1) for baseline in (0, 1) for problem in ("a", "b")
        for rollout in (0, 1)
    }  # fmt: skip
    assert len(streams) == 24


# -- rules, edits, placebos ------------------------------------------------------------------------


def test_contexts_match_offset_by_offset() -> None:
    contexts = Contexts(np.array([[1, 2, 3, 4], [MISSING, MISSING, 8, 9]], np.int32), 0.75)
    text = np.array([9, 1, 2, 7, 4, 1, 2, 3, 5], np.int32)
    rows = [before(text, place, 4) for place in (0, 2, 5, 8)]
    assert rows[0].tolist() == [MISSING] * 4
    assert rows[1].tolist() == [MISSING, MISSING, 9, 1]
    # Three of four agree in [1, 2, 7, 4]; [4, 1, 2, 3] is shifted, and nothing is no agreement.
    assert contexts.match(np.stack(rows)).tolist() == [False, False, True, False]
    assert Contexts(contexts.left_WK, 0.5).match(np.array([[MISSING, MISSING, 8, 9]])).all()
    assert not Contexts(contexts.left_WK, 0.01).match(np.full((1, 4), MISSING)).any()


tokens = st.lists(st.integers(0, 3), max_size=9)


@settings(max_examples=50, deadline=None)
@given(tokens, tokens)
def test_edit_distance_is_that_of_the_textbook(one: list[int], other: list[int]) -> None:
    found = edit_distance(np.array(one, np.int32), np.array(other, np.int32))
    assert found == levenshtein(one, other)
    share = edit_share(np.array(one), np.array(other))
    assert share == (found / max(len(one), len(other)) if one or other else None)


def test_a_placebo_stands_in_as_many_completions() -> None:
    texts = [np.array(t) for t in ([1, 1, 5, 6], [1, 5, 7], [1, 7, 8], [1, 5, 8], [1, 8, 9], [5])]
    held = completions_with(texts)
    assert held == {1: 5, 5: 4, 6: 1, 7: 2, 8: 3, 9: 1}
    # 5 stands in four of five; 9 and 7 are within one of 6; nothing is left for rock 8.
    found = placebos([1, 6, 8, 4], held, {1, 6, 8, 4, 7})
    assert [(one.token_id, one.group, one.control_of) for one in found] == [
        (5, "placebo", 1), (9, "placebo", 6),
    ]  # fmt: skip
    chosen = {
        placebos([1], {1: 20, **dict.fromkeys(range(2, 12), 20)}, {1}, seed)[0].token_id
        for seed in range(40)
    }
    assert len(chosen) >= 8


def test_contexts_of_a_placebo_are_the_baselines() -> None:
    texts = [np.array(t, np.int32) for t in ([1, 2, 5, 5], [5, 3], [4, 4, 4])]
    like = Contexts(np.array([[0, 0]], np.int32), 0.5)
    found = placebo_contexts(5, texts, 9, like)
    assert found is not None
    assert found.left_WK.tolist() == [[MISSING, MISSING], [1, 2]]
    assert found.min_similarity == 0.5
    one = placebo_contexts(5, texts, 1, like)
    assert one is not None and len(one.left_WK) == 1
    assert placebo_contexts(4, texts, 0, like) is None
    assert placebo_contexts(9, texts, 1, like) is None
