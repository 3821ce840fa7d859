"""Hugging Face causal language models: loading them, and whether they speak the same tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rocktok.errors import LogError, RocktokError, UsageError
from rocktok.hooks.vocabulary import vocabulary

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def step_of(name: str) -> int | None:
    """The step that a checkpoint's name ends with: checkpoint-500, step_500, 500."""
    found = re.search(r"(\d+)$", name.rstrip("/"))
    return int(found.group(1)) if found else None


def steps_of(names: tuple[str, ...], given: tuple[int, ...] | None) -> list[int]:
    """A step for each checkpoint. Raises `UsageError` for none, or one twice."""
    if given is not None and len(given) != len(names):
        message = f"steps has {len(given)} numbers for {len(names)} students; give one for each"
        raise UsageError(message, parameter="steps")
    found = list(given) if given is not None else [step_of(name) for name in names]
    for name, step in zip(names, found, strict=True):
        if step is None:
            raise UsageError(f"{name}: its name tells no step; give --steps", parameter="steps")
    steps = [step for step in found if step is not None]
    twice = {step for step in steps if steps.count(step) > 1}
    if twice:
        message = f"step {min(twice)} is there twice; give --steps, one for each student"
        raise UsageError(message, parameter="steps")
    return steps


def check_checkpoint(name: str) -> None:
    """Raise `LogError` for a local directory without configuration or weights."""
    path = Path(name)
    if not path.exists():
        return
    if not (path / "config.json").exists():
        raise LogError(f"{name}: has no config.json; give what save_pretrained writes")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise LogError(
            f"{name}: has no weights ({' or '.join(_WEIGHTS)}); give what save_pretrained writes"
        )


def load_tokenizer(name: str) -> Any | None:
    """A checkpoint's tokenizer; None where it has none of its own."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        return None


def load_model(name: str, dtype: str, device: str) -> Any:
    """The model in evaluation mode. Raises `RocktokError` where it cannot be loaded."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    check_checkpoint(name)
    # stderr is for our own words.
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise RocktokError(f"{name}: cannot be loaded ({line})") from error
    return model.to(device).eval()


def width(model: Any) -> int:
    """Number of logits."""
    return int(model.get_output_embeddings().weight.shape[0])


def check_widths(first: tuple[str, int], second: tuple[str, int]) -> None:
    """Raise `LogError` for models of unlike vocabulary sizes."""
    if first[1] != second[1]:
        raise LogError(
            f"{first[0]} has {first[1]:,} logits, {second[0]} has {second[1]:,}; reverse KL needs "
            "one vocabulary"
        )


def check_tokens(first: tuple[str, dict[int, str]], second: tuple[str, dict[int, str]]) -> None:
    """Raise `LogError` with the sizes and the first token at which two vocabularies differ.

    Texts that are no UTF-8 are written in more ways than one, and are not compared.
    """
    ours, theirs = first[1], second[1]
    for token_id in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(token_id), theirs.get(token_id)
        plain = all(text is None or ("�" not in text and "\\x" not in text) for text in (a, b))
        if a != b and plain:
            raise LogError(
                f"{first[0]} has {len(ours):,} tokens, {second[0]} has {len(theirs):,}; the first "
                f"that differs is {token_id}: {a!r} against {b!r}"
            )


def token_texts(tokenizer: Any) -> dict[int, str]:
    """Token id → text."""
    return {token_id: text for token_id, text, _ in vocabulary(tokenizer)}
