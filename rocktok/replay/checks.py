"""Whether models, texts and options fit one another, told before anything is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import rocktok.schema as schema
from rocktok.errors import LogError, UsageError
from rocktok.files import local_path
from rocktok.hooks.arguments import END_COLUMNS, columns_of
from rocktok.hooks.vocabulary import vocabulary
from rocktok.replay.models import check_device, check_tokens, check_widths, token_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rocktok.replay.scoring import Scorer
    from rocktok.replay.texts import Texts


def expanded(name: str) -> str:
    """A checkpoint's name; `~` is the user's home."""
    return str(local_path(name)) if name.startswith("~") else name


def usable_device(device: str | None) -> str:
    """The device, or the best there is. Raises `UsageError` for one that cannot be used."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return device


def check_model(name: str, config: Any, texts: Texts) -> None:
    """Raise `LogError` where, by its configuration, a model cannot score the texts."""
    size = int(config.vocab_size)
    prompt_S = texts.prompts.length_S
    if not prompt_S.all():
        sequence = texts.sequence_S[int(np.argmin(prompt_S))]
        raise LogError(
            f"{texts.name}: sequence {sequence} has no prompt; its first token needs one: leave "
            "the sequence out"
        )
    for part in (texts.prompts, texts.completions):
        bad_T = (part.value_T < 0) | (part.value_T >= size)
        if bad_T.any():
            at = int(np.argmax(bad_T))
            row = int(np.searchsorted(part.start_S, at, side="right")) - 1
            raise LogError(
                f"{texts.name}: sequence {texts.sequence_S[row]} has token {part.value_T[at]}, "
                f"{name} has {size:,} logits; give text and models of one tokenizer"
            )
    most, longest = getattr(config, "max_position_embeddings", None), int(texts.length_S.max())
    if isinstance(most, int) and longest > most > 0:
        sequence = texts.sequence_S[int(np.argmax(texts.length_S))]
        raise LogError(
            f"{texts.name}: sequence {sequence} has {longest:,} tokens, {name} takes {most:,}; "
            "leave the sequence out"
        )


def columns_asked(asked: str | Iterable[str]) -> tuple[str, ...]:
    """As `columns_of`. Raises `UsageError` for names that are not known."""
    try:
        return columns_of(asked)
    except ValueError as error:
        message = str(error)
        if not message.startswith("columns "):
            message = f"columns: {message}"
        raise UsageError(message, parameter="columns") from error


def alternatives_asked(asked: int, vocabulary_size: int) -> int:
    """As many, the default cut to the vocabulary. Raises `UsageError` for more than that."""
    if asked <= vocabulary_size or asked == schema.ALTERNATIVES:
        return min(asked, vocabulary_size)
    message = f"alternatives is {asked}, more than the vocabulary of {vocabulary_size:,}"
    raise UsageError(message, parameter="alternatives")


def check_ends(columns: tuple[str, ...], terminal_ids: Sequence[int]) -> None:
    """Raise `UsageError` where columns are sums over terminal ids, and none are known."""
    wanted = [name for name in END_COLUMNS if name in columns]
    if wanted and not terminal_ids:
        message = (
            f"columns has {' and '.join(wanted)}, which need terminal ids; neither the models' "
            "generation_config.json nor their tokenizers name one: name the columns without these"
        )
        raise UsageError(message, parameter="columns")


def check_student(student: Scorer, columns: tuple[str, ...]) -> None:
    """Raise `LogError` where a student cannot have the columns that the log records."""
    missing = [name for name in columns if name not in student.columns(columns)]
    if missing:
        raise LogError(
            f"{student.name}: has no plain output head, as the students before it; the log records "
            f"{', '.join(missing)}: score this one into another -o"
        )


def vocab_of(
    texts: Texts, tokenizers: dict[str, Any]
) -> tuple[list[tuple[int, str, bytes]] | None, tuple[str, ...]]:
    """The tokens, the same in the text and in all models that bring a tokenizer; the others."""
    first = None if texts.vocab is None else (texts.name, texts.vocab)
    tokens, without = None, []
    for name, tokenizer in tokenizers.items():
        if tokenizer is None:
            without.append(name)
            continue
        mine = name, token_texts(tokenizer)
        if first is not None:
            check_tokens(first, mine)
        first = first or mine
        tokens = tokens or list(vocabulary(tokenizer))
    return tokens, tuple(without)


def shared_ids(
    widths: dict[str, int], vocab: list[tuple[int, str, bytes]] | None, without: tuple[str, ...]
) -> int:
    """Number of ids that all models have: all, or those of tokens where heads are padded.

    Raises `LogError` for heads of unlike width where a model brings no tokenizer, or where a token
    lies beyond the narrowest.
    """
    narrow, wide = (which(widths.items(), key=lambda one: one[1]) for which in (min, max))
    if narrow[1] == wide[1]:
        return narrow[1]
    if without or vocab is None:
        check_widths(narrow, wide)
    beyond = [token_id for token_id, *_ in vocab or () if token_id >= narrow[1]]
    if beyond:
        raise LogError(
            f"{narrow[0]} has {narrow[1]:,} logits, {wide[0]} has {wide[1]:,}, and token "
            f"{beyond[0]} is one of the others; give models of one tokenizer"
        )
    return narrow[1]
