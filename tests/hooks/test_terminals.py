"""Terminal and special ids of tokenizers: roles, templates, and what is declared beside them."""

from __future__ import annotations

from typing import Any

import pytest

from rocktok.hooks.terminals import end_of_turn, special_ids, terminal_ids
from tests.trl_models import make_tokenizer

TURN = "{% for m in messages %}<s>{{ m['content'] }}%s{% endfor %}"


def tokenizer_of(end: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|turn|>s"]})
    tokenizer.add_tokens(["<plain>"])
    tokenizer.chat_template = TURN.replace("%s", end)
    return tokenizer


@pytest.mark.parametrize(
    ("end", "token"),
    [
        ("<|turn|>", "<|turn|>"),
        ("\n<|turn|>\n", "<|turn|>"),
        # The longest that fits is the one that a tokenizer takes.
        ("<|turn|>s", "<|turn|>s"),
        ("<|end|>", "<|end|>"),
        ("<plain>", None),
        ("\n", None),
        ("{{ raise_exception('no') }}", None),
        ("{{ m['content'].nothing.there }}", None),
    ],
)
def test_the_token_that_ends_a_turn(end: str, token: str | None) -> None:
    tokenizer = tokenizer_of(end)
    expected = None if token is None else tokenizer.convert_tokens_to_ids(token)
    assert end_of_turn(tokenizer) == expected
    assert terminal_ids(tokenizer) == sorted({0} if expected is None else {0, expected})


def test_declared_ids_are_numbers_lists_or_none() -> None:
    assert terminal_ids(None) == []
    assert terminal_ids(None, None, 7, [3, 7], (2,)) == [2, 3, 7]
    assert terminal_ids(make_tokenizer(), [5, None, -1, True, "a"]) == [0, 5]


def test_special_tokens_are_those_with_a_role_and_those_added_as_special() -> None:
    tokenizer = tokenizer_of("\n")
    added = [tokenizer.convert_tokens_to_ids(token) for token in ("<|turn|>", "<|turn|>s")]
    assert special_ids(tokenizer) == [0, 1, *added]
