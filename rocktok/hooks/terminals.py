"""Token ids that end a completion or a turn, and special tokens, as tokenizers and models say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What an assistant says in the conversation that the chat template is tried on.
_ANSWER = "Seventeen."


def terminal_ids(tokenizer: Any | None, *declared: Any) -> list[int]:
    """Ascending ids that end a completion or a turn.

    Args:
        tokenizer: its end-of-sequence token, and the special token by which its chat template ends
            an assistant's turn; None: no tokenizer is known.
        declared: ids, lists of ids, or None, as in `generation_config.eos_token_id`.
    """
    found = {number for ids in declared for number in _numbers(ids)}
    if tokenizer is not None:
        found.update(_numbers(getattr(tokenizer, "eos_token_id", None)))
        found.update(_numbers(end_of_turn(tokenizer)))
    return sorted(found)


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token by which a chat template ends an assistant's turn; None if it does not."""
    # Templates are programs of their own: any may fail, in any way.
    try:
        if not getattr(tokenizer, "chat_template", None):
            return None
        turns = [
            {"role": "user", "content": "How many?"},
            {"role": "assistant", "content": _ANSWER},
        ]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:
        return None
    after = text.rpartition(_ANSWER)[2].lstrip() if _ANSWER in text else ""
    starts = [
        (len(token), number)
        for number, token in _special_tokens(tokenizer).items()
        if token and after.startswith(token)
    ]
    return max(starts)[1] if starts else None


def special_ids(tokenizer: Any) -> list[int]:
    """Ascending ids of a tokenizer's special tokens."""
    return sorted(_special_tokens(tokenizer))


def _special_tokens(tokenizer: Any) -> dict[int, str]:
    """Special token → its text: those with a role, and those added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {i: str(token) for i, token in added.items() if getattr(token, "special", False)}
    ids = getattr(tokenizer, "all_special_ids", [])
    texts = getattr(tokenizer, "all_special_tokens", [])
    return found | dict(zip(ids, map(str, texts), strict=False))


def _numbers(ids: Any) -> Iterable[int]:
    numbers = ids if isinstance(ids, list | tuple) else [ids]
    return [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
