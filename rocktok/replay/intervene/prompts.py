"""Prompts as token ids, as the student takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rocktok._types import Array
    from rocktok.replay.intervene.problems import Problem


def encode_prompts(
    problems: Sequence[Problem], tokenizer: Any, *, chat: bool, size: int, longest: int | None
) -> list[Array]:
    """Token ids of each problem's prompt, int32.

    Args:
        tokenizer: the student's.
        chat: whether a prompt that is a text becomes a user's message of the chat template, too;
            prompts that are messages always do. Otherwise it is encoded as it stands.
        size: number of token ids.
        longest: tokens that a prompt may have; None: any number.

    Raises `DataError`, which names the problem.
    """
    return [_encoded(problem, tokenizer, chat, size, longest) for problem in problems]


def _encoded(problem: Problem, tokenizer: Any, chat: bool, size: int, longest: int | None) -> Array:
    prompt = problem.prompt
    # Templates are programs of their own: any may fail, in any way.
    try:
        if chat or not isinstance(prompt, str):
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(prompt)["input_ids"]
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"problem {problem.id!r}: its prompt cannot be encoded ({line}); correct it, or the "
            "student's tokenizer"
        ) from error
    if not ids:
        raise DataError(f"problem {problem.id!r}: its prompt has no tokens; give it a text")
    beyond = [v for v in ids if v >= size]
    if beyond:
        raise DataError(
            f"problem {problem.id!r}: its prompt has token {beyond[0]}, which the models have no "
            f"logit for ({size:,} are shared); leave the problem out"
        )
    if longest is not None and len(ids) > longest:
        raise DataError(
            f"problem {problem.id!r}: its prompt has {len(ids):,} tokens, where the models leave "
            f"room for {longest:,}; give a smaller --max-new-tokens, or leave the problem out"
        )
    return np.array(ids, dtype=np.int32)
