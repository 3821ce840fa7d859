"""Hugging Face causal language models: loading them, and whether they speak the same tokens."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

from rocktok.errors import LogError, RocktokError, UsageError
from rocktok.hooks.vocabulary import vocabulary

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_ADAPTER, _ADAPTER_WEIGHTS = (
    "adapter_config.json",
    ("adapter_model.safetensors", "adapter_model.bin"),
)

#: Of a file of weights, how many blocks tell whether it is the same, and their bytes.
_BLOCKS, _BLOCK = 16, 1 << 16

_NOWHERE = "is neither a directory nor the name of a model that can be had"
_GIVE = (
    "give a directory that save_pretrained wrote, or a model's name where its hub can be reached"
)
_TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")


#: How a name tells a step: checkpoint-500, step_500, global_step500, or 500 alone. Other numbers
#: at the end of a name are versions and sizes.
_STEP = re.compile(r"(?:^|[^a-z])(?:checkpoint|ckpt|(?:global_?)?step)[-_]?(\d+)$|^(\d+)$", re.I)

#: What a hub may have: name, or owner/name.
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


def step_of(name: str) -> int | None:
    """The step that a checkpoint's name ends with, as checkpoint-500 does; None for none."""
    match = _STEP.search(Path(name).name)
    return int(match.group(1) or match.group(2)) if match else None


def steps_of(names: tuple[str, ...], numbers: tuple[int, ...] | None) -> list[int]:
    """A step for each checkpoint: its number, or without numbers what its name ends with.

    Raises `UsageError` for none, or one twice.
    """
    if numbers is not None and len(numbers) != len(names):
        message = f"steps has {len(numbers)} numbers for {len(names)} students; give one for each"
        raise UsageError(message, parameter="steps")
    step_of_each = list(numbers) if numbers is not None else [step_of(name) for name in names]
    for name, step in zip(names, step_of_each, strict=True):
        if step is None:
            message = (
                f"steps is not given, and the name {name} tells none, as checkpoint-500 would; "
                "give one for each student"
            )
            raise UsageError(message, parameter="steps")
    steps = [step for step in step_of_each if step is not None]
    outside = [step for step in steps if not 0 <= step < 1 << 31]
    if outside:
        message = f"steps has {outside[0]}; steps are 0 or more, and below {1 << 31}"
        raise UsageError(message, parameter="steps")
    twice = {step for step in steps if steps.count(step) > 1}
    if twice:
        message = f"steps has {min(twice)} twice; give each student its own"
        raise UsageError(message, parameter="steps")
    return steps


def check_checkpoint(name: str) -> None:
    """Raise `LogError` for a local directory without configuration or weights."""
    path = Path(name)
    if not path.exists():
        if not _HUB_NAME.fullmatch(name):
            raise LogError(f"{name}: {_NOWHERE}; {_GIVE}")
        return
    if base_of(name) is not None:
        if not any((path / weights).exists() for weights in _ADAPTER_WEIGHTS):
            raise LogError(
                f"{name}: has no weights ({' or '.join(_ADAPTER_WEIGHTS)}); give what "
                "save_pretrained writes"
            )
        return
    if not (path / "config.json").exists():
        raise LogError(f"{name}: has no config.json; give what save_pretrained writes")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise LogError(
            f"{name}: has no weights ({' or '.join(_WEIGHTS)}); give what save_pretrained writes"
        )


def base_of(name: str) -> str | None:
    """The model that a checkpoint's adapter (LoRA) belongs to; None for a whole model.

    Raises `LogError` for an adapter that names none.
    """
    path = Path(name)
    if not (path / _ADAPTER).exists() or (path / "config.json").exists():
        return None
    try:
        base = json.loads((path / _ADAPTER).read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise LogError(
            f"{name}: its {_ADAPTER} names no base model (base_model_name_or_path); write it there"
        )
    return base


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
    if (base := base_of(name)) is not None:
        return load_config(base)
    # What goes wrong in there has no common base.
    try:
        config = AutoConfig.from_pretrained(name).get_text_config()
    except Exception as error:
        raise _not_loaded(name, error) from error
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise LogError(f"{name}: its config.json has no vocab_size; give a causal language model")
    return config


def load_tokenizer(name: str) -> Any | None:
    """A checkpoint's tokenizer; None where it has none of its own.

    Raises `LogError` where its files cannot be read: a vocabulary that is there is checked.
    """
    from transformers import AutoTokenizer

    path = Path(name)
    # Without files, transformers makes some classes' tokenizers up, of special tokens alone.
    if path.exists() and not any(next(path.glob(pattern), None) for pattern in _TOKENIZERS):
        base = base_of(name)
        return None if base is None else load_tokenizer(base)
    # What goes wrong in there has no common base.
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:
        if not path.exists() and isinstance(error, OSError | ValueError | KeyError):
            return None
        raise LogError(
            f"{name}: its tokenizer cannot be loaded ({_line(error)}); restore its files, or "
            "remove them all to take its tokens on trust"
        ) from error


def declared_ends(name: str) -> list[Any]:
    """The ids that end what a checkpoint generates, as its configurations say: ids, lists, None."""
    from transformers import GenerationConfig

    if (base := base_of(name)) is not None:
        return declared_ends(base)
    declared = [getattr(load_config(name), "eos_token_id", None)]
    # Many checkpoints have none: then transformers makes one of the configuration.
    try:
        declared.append(GenerationConfig.from_pretrained(name).eos_token_id)
    except Exception:
        return declared
    return declared


def fingerprint(name: str) -> str | None:
    """What changes with a checkpoint's configuration or weights; None for one that is not here.

    Of each file its name, its size, and blocks from beginning to end: training moves all weights,
    and to read them all would take as long as loading them.
    """
    path = Path(name)
    if not path.exists():
        return None
    digest = hashlib.blake2b(digest_size=16)
    if (base := base_of(name)) is not None:
        digest.update(f"{base}\0{fingerprint(base)}\0".encode())
    patterns = ("config.json", _ADAPTER, *_WEIGHTS, *_ADAPTER_WEIGHTS)
    for file in sorted({f for pattern in patterns for f in path.glob(pattern)}):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as opened:
            for block in range(_BLOCKS):
                opened.seek(block * max(0, size - _BLOCK) // (_BLOCKS - 1))
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()


def load_model(name: str, dtype: str, device: str) -> Any:
    """The model in evaluation mode, an adapter upon its base, not merged: as it was trained.

    Raises `RocktokError` where it cannot be loaded whole.
    """
    from transformers import AutoModelForCausalLM

    check_checkpoint(name)
    if (base := base_of(name)) is not None:
        return _with_adapter(load_model(base, dtype, device), name, device)
    _hush()
    try:
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True
        )
        model = model.to(device).eval()
    except Exception as error:
        raise _not_loaded(name, error) from error
    # They would be drawn at random.
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise LogError(
            f"{name}: has no weights for {missing[0]} ({len(missing)} are missing); give what "
            "save_pretrained writes of the whole model"
        )
    if model.get_output_embeddings() is None:
        raise LogError(f"{name}: has no output head; give a causal language model")
    return model


def _with_adapter(model: Any, name: str, device: str) -> Any:
    """The model with the weights of an adapter beside its own. Raises `RocktokError`."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise RocktokError(f"{name}: an adapter needs peft; install rocktok[hf]") from error
    try:
        with warnings.catch_warnings():
            # Weights of the adapter that are missing would stay as they were drawn.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            made = PeftModel.from_pretrained(model, name)
        return made.get_base_model().to(device).eval()
    except Exception as error:
        raise RocktokError(
            f"{name}: the adapter cannot be put upon {base_of(name)} ({_line(error)}); {_GIVE}"
        ) from error


def _not_loaded(name: str, error: Exception) -> RocktokError:
    what = "cannot be loaded" if Path(name).exists() else _NOWHERE
    return RocktokError(f"{name}: {what} ({_line(error)}); {_GIVE}")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


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


def check_widths(one: tuple[str, int], other: tuple[str, int]) -> None:
    """Raise `LogError` for models of unlike vocabulary sizes."""
    if one[1] != other[1]:
        wider = max(one, other, key=lambda model: model[1])[0]
        raise LogError(
            f"{one[0]} has {one[1]:,} logits, {other[0]} has {other[1]:,}; the first that "
            f"differs is {min(one[1], other[1])}, which {wider} alone has: reverse KL needs "
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
