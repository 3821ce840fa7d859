"""Hugging Face causal language models: loading them, and whether they speak the same tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rocktok.errors import LogError, RocktokError, UsageError
from rocktok.hooks.vocabulary import vocabulary

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")


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
    outside = [step for step in steps if not 0 <= step < 1 << 31]
    if outside:
        message = f"steps has {outside[0]}; steps are 0 or more, and below {1 << 31}"
        raise UsageError(message, parameter="steps")
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
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise LogError(f"{name}: holds an adapter alone; merge it into its model and save that")
    if not (path / "config.json").exists():
        raise LogError(f"{name}: has no config.json; give what save_pretrained writes")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise LogError(
            f"{name}: has no weights ({' or '.join(_WEIGHTS)}); give what save_pretrained writes"
        )


def _hush() -> None:
    """Leave stderr to our own words: what goes wrong there is said in one line here."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()


def load_config(name: str) -> Any:
    """A checkpoint's text configuration, without its weights. Raises `RocktokError`."""
    from transformers import AutoConfig

    check_checkpoint(name)
    _hush()
    # What goes wrong in there has no common base.
    try:
        config = AutoConfig.from_pretrained(name).get_text_config()
    except Exception as error:
        raise _not_loaded(name, error) from error
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise LogError(f"{name}: its config.json has no vocab_size; give a causal language model")
    return config


def load_tokenizer(name: str) -> Any | None:
    """A checkpoint's tokenizer; None where it has none of its own."""
    from transformers import AutoTokenizer

    path = Path(name)
    # Without files, transformers makes some classes' tokenizers up, of special tokens alone.
    if path.exists() and not any(next(path.glob(pattern), None) for pattern in _TOKENIZERS):
        return None
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        return None


def load_model(name: str, dtype: str, device: str) -> Any:
    """The model in evaluation mode. Raises `RocktokError` where it cannot be loaded whole."""
    from transformers import AutoModelForCausalLM

    check_checkpoint(name)
    _hush()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True
        )
        model = model.to(device).eval()
    except Exception as error:
        raise _not_loaded(name, error) from error
    # They would be drawn at random.
    missing = sorted(found["missing_keys"])
    if missing:
        raise LogError(
            f"{name}: has no weights for {missing[0]} ({len(missing)} are missing); give what "
            "save_pretrained writes of the whole model"
        )
    if model.get_output_embeddings() is None:
        raise LogError(f"{name}: has no output head; give a causal language model")
    return model


def _not_loaded(name: str, error: Exception) -> RocktokError:
    lines = str(error).strip().splitlines()
    line = lines[0].rstrip(".") if lines else type(error).__name__
    return RocktokError(
        f"{name}: cannot be loaded ({line}); give a directory that save_pretrained wrote, or a "
        "model's name where its hub can be reached"
    )


def check_device(device: str) -> None:
    """Raise `UsageError` for a device that is none, or not there."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = (str(error).splitlines() or [""])[0].rstrip(".")
        message = f"device is {device}, which cannot be used ({line}); give cpu or another"
        raise UsageError(message, parameter="device") from error


def width(model: Any) -> int:
    """Number of logits."""
    return int(model.get_output_embeddings().weight.shape[0])


def check_widths(first: tuple[str, int], second: tuple[str, int]) -> None:
    """Raise `LogError` for models of unlike vocabulary sizes."""
    if first[1] != second[1]:
        wider = max(first, second, key=lambda one: one[1])[0]
        raise LogError(
            f"{first[0]} has {first[1]:,} logits, {second[0]} has {second[1]:,}; the first that "
            f"differs is {min(first[1], second[1])}, which {wider} alone has: reverse KL needs "
            "one vocabulary; give models that share one"
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
                f"that differs is {token_id}: {a!r} against {b!r}; give text and models of one "
                "tokenizer"
            )


def token_texts(tokenizer: Any) -> dict[int, str]:
    """Token id → text."""
    return {token_id: text for token_id, text, _ in vocabulary(tokenizer)}
