"""A tokenizer's texts and special ids, for logs whose files have ids alone; texts into ids."""

from __future__ import annotations

import re
from typing import Any

from rocktok.errors import LogError, RocktokError
from rocktok.files import local_path

#: What a hub may have: name, or owner/name.
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_GIVE = "give a directory that save_pretrained wrote, or the name of one on a reachable hub"


def load(name: str) -> Any:
    """A Hugging Face tokenizer. Raises `RocktokError` without transformers, `LogError` for none."""
    try:
        from huggingface_hub.utils import logging as hub_logging
        from transformers import AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise RocktokError("a tokenizer needs transformers; install rocktok[hf]") from error
    path = local_path(name)
    if not path.exists() and not _HUB_NAME.fullmatch(name):
        raise LogError(f"{name}: no such directory; {_GIVE}")
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(str(path) if path.exists() else name)
    except Exception as error:  # of whatever kind its files, or the hub, make it
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LogError(f"{name}: no tokenizer can be loaded ({line}); {_GIVE}") from error


def vocabulary_of(
    name: str | None, run: dict[str, Any]
) -> tuple[list[tuple[int, str, bytes]] | None, dict[str, Any]]:
    """Rows of vocab.parquet, and facts for run.json; nothing without a tokenizer.

    Raises `LogError` for a tokenizer with ids outside the vocabulary that `run` states.
    """
    if name is None:
        return None, {}
    from rocktok.hooks.terminals import special_ids, terminal_ids
    from rocktok.hooks.vocabulary import vocabulary

    tokenizer = load(name)
    vocab = list(vocabulary(tokenizer))
    size = run.get("vocab_size")
    if size is not None and vocab and vocab[-1][0] >= size:
        raise LogError(
            f"{name}: has token {vocab[-1][0]}, outside the vocabulary of {size:,}; give the "
            "tokenizer of the files"
        )
    ends = terminal_ids(tokenizer)
    facts: dict[str, Any] = {"special_ids": special_ids(tokenizer)}
    if ends:
        facts["terminal_ids"] = {"student": ends}
    return vocab, facts
