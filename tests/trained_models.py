"""Tiny models that have learnt to answer and to end, so that a run with them is healthy."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.trl_models import make_tokenizer

#: What they are asked: an interval needs 20 prompts that carry a number.
PROMPTS = [f"What is {a} plus {b}?\n" for a in range(3, 11) for b in range(2, 6)]

END_ID, OTHER_END_ID = 0, 1

Answer = Callable[[int, int], str]


def answer(a: int, b: int) -> str:
    """What models are taught to say."""
    return f"{a} plus {b} is {a + b}. So {b} plus {a} is {a + b}, and {a} plus {b} is {a + b}."


def looping(a: int, b: int) -> str:
    """An answer that does not end."""
    return f"{a} plus {b} is" + " Think." * 40


@cache
def _weights(words: Answer, end: int, seed: int, steps: int, width: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model, tokenizer = _untrained(width), make_tokenizer()
    numbers = [[int(n) for n in re.findall(r"\d+", prompt)] for prompt in PROMPTS]
    texts = [
        (tokenizer(prompt)["input_ids"], [*tokenizer(words(a, b))["input_ids"], end])
        for prompt, (a, b) in zip(PROMPTS, numbers, strict=True)
    ]
    rows = [(prompt + text)[:100] for prompt, text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [end] * (longest - len(row)) for row in rows])
    labels = ids.clone()
    for label, (prompt, text) in zip(labels, texts, strict=True):
        label[: len(prompt)] = -100
        label[len(prompt) + len(text) :] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return {name: values.detach().clone() for name, values in model.state_dict().items()}


def _untrained(width: int) -> Any:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=width,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=128,
            eos_token_id=END_ID,
            bos_token_id=None,
        )
    )


def trained_model(
    seed: int, steps: int, words: Answer = answer, end: int = END_ID, width: int | None = None
) -> Any:
    """A model that was taught the answers for some steps; `end`: the token that ends them."""
    torch.set_num_threads(1)
    width = len(make_tokenizer()) if width is None else width
    model = _untrained(width)
    model.load_state_dict(_weights(words, end, seed, steps, width))
    return model


def saved_teacher(
    folder: Path, model: Any, *, eos: str | None = None, template: str | None = None
) -> Any:
    """A teacher that was loaded from a folder with its tokenizer, as users load theirs."""
    tokenizer: PreTrainedTokenizerFast = make_tokenizer()
    if eos is not None:
        tokenizer.eos_token = eos
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    tokenizer.chat_template = template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)
