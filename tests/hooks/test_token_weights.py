"""Which tokens have a weight: types, and places whose contexts match; a brute-force twin."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.errors import HookError, LogError
from rocktok.hooks import TokenWeights
from rocktok.weighting import (
    MISSING,
    Budget,
    Provenance,
    VocabularyOf,
    Weights,
    Window,
    WindowContexts,
)


def rows(*texts: list[int]) -> torch.Tensor:
    return torch.tensor(texts)


def test_the_weight_belongs_to_the_target() -> None:
    weights = TokenWeights([7, 3], 0.25)
    found = weights.of(rows([7, 1, 3, 7], [2, 2, 2, 3]))
    assert found.tolist() == [[0.25, 1, 0.25, 0.25], [1, 1, 1, 0.25]]
    assert found.dtype == torch.float32


def test_tokens_that_do_not_count_have_no_weight() -> None:
    weights = TokenWeights([7], 0.0)
    assert weights.of(rows([7, 7, 7]), torch.tensor([[1, 0, 1]])).tolist() == [[0, 1, 0]]


def test_no_types_weight_nothing() -> None:
    assert TokenWeights([], 0.0).of(rows([7, 0])).tolist() == [[1, 1]]


#: 7 after (4, 5) and before (6,).
CONTEXT = WindowContexts(2, 1, 0.6, (Window(7, (4, 5), (6,)),))


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ([4, 5, 7, 6, 9], [0, 0, 1, 0, 0]),
        # Two of three offsets are enough at 0.6, one is not.
        ([9, 5, 7, 6, 9], [0, 0, 1, 0, 0]),
        ([9, 9, 7, 6, 9], [0, 0, 0, 0, 0]),
        # The same context around another token is none of its.
        ([4, 5, 8, 6, 9], [0, 0, 0, 0, 0]),
        # The first offsets are empty: one of three.
        ([7, 6, 9, 9, 9], [0, 0, 0, 0, 0]),
        # The text ends at the token: its two offsets before count alone, and one is not enough.
        ([9, 9, 4, 5, 7], [0, 0, 0, 0, 1]),
        ([9, 9, 9, 5, 7], [0, 0, 0, 0, 0]),
    ],
)
def test_contexts_match_as_far_as_the_text_goes(text: list[int], selected: list[int]) -> None:
    weights = TokenWeights([], 0.0, contexts=CONTEXT)
    assert weights.selected(rows(text)).int().tolist() == [selected]


def test_padding_is_no_context_and_ends_the_text() -> None:
    weights = TokenWeights([], 0.0, contexts=CONTEXT)
    padded = rows([4, 5, 7, 0, 0], [4, 5, 7, 6, 6])
    assert weights.selected(padded, torch.tensor([[1, 1, 1, 0, 0]] * 2)).sum().item() == 2
    # A gap (a tool's output) is an empty place, not the end: one of three offsets is left.
    gap = torch.tensor([[0, 1, 1, 0, 1]])
    assert not weights.selected(rows([4, 5, 7, 6, 6]), gap).any()


def test_a_radius_reaches_to_both_sides_of_a_match_but_not_into_other_texts() -> None:
    weights = TokenWeights([1], 0.5, radius=1, contexts=CONTEXT)
    found = weights.of(rows([4, 5, 7, 6, 9, 1], [9, 9, 9, 9, 9, 9]))
    assert found.tolist() == [[1, 0.5, 0.5, 0.5, 1, 0.5], [1] * 6]


def brute_force(
    text: list[int], counts: list[int], contexts: WindowContexts, ids: set[int], radius: int
) -> list[bool]:
    """The definition, read aloud."""
    held = {place: token for place, token in enumerate(text) if counts[place]}
    length = max(held, default=-1) + 1
    matches = set()
    for place, token in held.items():
        for window in contexts.windows:
            pairs = [(place - contexts.before + k, t) for k, t in enumerate(window.left)]
            pairs += [(place + 1 + k, t) for k, t in enumerate(window.right)]
            pairs = [(at, t) for at, t in pairs if at < length]
            equal = sum(held.get(at, -2) == t for at, t in pairs)
            if window.token_id == token and pairs and equal >= contexts.min_similarity * len(pairs):
                matches.add(place)
    near = {place + k for place in matches for k in range(-radius, radius + 1)}
    return [p in held and (p in near or held[p] in ids) for p in range(len(text))]


tokens = st.integers(0, 3)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_as_the_definition_says(data: Any) -> None:
    before, after = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    place = st.one_of(st.just(MISSING), tokens)
    windows = data.draw(
        st.lists(
            st.builds(
                lambda token, around: Window(token, tuple(around[:before]), tuple(around[before:])),
                tokens,
                st.lists(place, min_size=before + after, max_size=before + after),
            ),
            max_size=4,
        )
    )
    share = data.draw(st.sampled_from([0.25, 1 / 3, 0.5, 2 / 3, 1.0]))
    contexts = WindowContexts(before, after, share, tuple(windows))
    ids, radius = data.draw(st.sets(tokens, max_size=2)), data.draw(st.integers(0, 2))
    texts = data.draw(st.lists(st.lists(tokens, min_size=6, max_size=6), min_size=1, max_size=3))
    counts = data.draw(
        st.lists(
            st.lists(st.integers(0, 1), min_size=6, max_size=6),
            min_size=len(texts),
            max_size=len(texts),
        )
    )
    found = TokenWeights(ids, 0.0, radius, contexts).selected(
        torch.tensor(texts), torch.tensor(counts)
    )
    expected = [
        brute_force(text, count, contexts, ids, radius)
        for text, count in zip(texts, counts, strict=True)
    ]
    assert found.tolist() == expected


def test_many_windows_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = torch.randint(0, 4, (3, 40), generator=torch.Generator().manual_seed(0))
    windows = tuple(Window(v, (v, w), (w,)) for v in range(4) for w in range(4))
    weights = TokenWeights([], 0.0, contexts=WindowContexts(2, 1, 0.6, windows))
    whole = weights.selected(text)
    monkeypatch.setattr("rocktok.hooks.token_weights._COMPARISONS", 1)
    assert torch.equal(weights.selected(text), whole)
    assert whole.any()


def some(**changes: Any) -> Weights:
    fields: dict[str, Any] = {
        "select": "rocks",
        "weight": 0.25,
        "radius": 1,
        "token_ids": (7, 3),
        "token_texts": (" So", "."),
        "contexts": CONTEXT,
        "budget": Budget(0.5, 0.1),
        "vocabulary": VocabularyOf(50, "abc"),
        "provenance": Provenance({"path": "a"}, {"pre": 0, "post": 10}, {}, "1"),
    }
    return Weights(**{**fields, **changes})


def test_a_weights_file_says_it_all(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    some().save(path)
    weights = TokenWeights.load(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    texts = (" So", ".")
    assert weights == TokenWeights(
        [7, 3], 0.25, 1, CONTEXT, select="rocks", sha256=digest, token_texts=texts
    )
    assert TokenWeights.of_weights(some()) == weights
    assert weights.facts() == {
        "sha256": digest,
        "select": "rocks",
        "weight": 0.25,
        "radius": 1,
        "normalization": "tokens",
        "token_types": 2,
        "windows": 1,
    }
    path.write_text("{}")
    with pytest.raises(LogError, match=r"weights\.json: is not a weights file"):
        TokenWeights.load(path)


def test_weights_of_ones_own_are_told_apart() -> None:
    one = TokenWeights([7, 7], 0.5)
    assert one.token_ids == (7,)
    assert one.sha256 == TokenWeights([7], 0.5).sha256
    assert one.sha256 != TokenWeights([7], 0.25).sha256 != TokenWeights([8], 0.25).sha256


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (([1], -1.0), "weight is -1; it must be 0 or more"),
        (([1], float("nan")), "weight is nan"),
        (([1], 0.0, -1), "radius is -1"),
        (([1], 0.0, 2), "radius is 2, but there are no contexts to match"),
        (([-1], 0.0), "token_ids holds -1, which is not a token id"),
        ((["So"], 0.0), "token_ids holds 'So'"),
        (([True], 0.0), "token_ids holds True"),
    ],
)
def test_values_out_of_range_are_refused(arguments: Any, why: str) -> None:
    with pytest.raises(HookError, match=f"^TokenWeights: {why}"):
        TokenWeights(*arguments)


def test_ids_of_another_model_are_refused() -> None:
    TokenWeights([7], 0.0, contexts=CONTEXT).check_vocabulary(8)
    with pytest.raises(HookError, match="token id 9 is outside the vocabulary of 8"):
        TokenWeights([9], 0.0).check_vocabulary(8)
    with pytest.raises(HookError, match="token id 7 is outside the vocabulary of 7"):
        TokenWeights([], 0.0, contexts=CONTEXT).check_vocabulary(7)


def test_ids_of_another_tokenizer_are_refused() -> None:
    weights = TokenWeights.of_weights(some(token_texts=(" So", "<id 3>")))
    weights.check_texts({7: " So", 3: "x"})
    weights.check_texts({})
    with pytest.raises(HookError, match="token 7 is ' So' in the weights file and ' Now' in this"):
        weights.check_texts({7: " Now"})


def test_they_are_made_without_torch() -> None:
    code = (
        "import sys\nfrom rocktok.hooks import TokenWeights, LiveWeights\nTokenWeights([1], 0.0)\n"
        "LiveWeights()\nassert not {'torch', 'numba', 'pandas'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
