"""vLLM's responses with `prompt_logprobs`: whole texts, scored by both models.

Each entry maps ids to {logprob, rank, decoded_token}, the realised token first, and the likeliest
beside it if more than 0 were asked for. The student's line may be its own generation instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rocktok.errors import LogError
from rocktok.importers import openai
from rocktok.importers.responses import PATTERNS as PATTERNS
from rocktok.importers.responses import (
    Likeliest,
    Scored,
    facts_of,
    floats,
    ints,
    number,
    prompt_tokens_of,
    read_pairs,
)
from rocktok.importers.source import Options, Source, check_ids


def read(paths: tuple[Path, ...], options: Options) -> Source:
    """A log of responses of both models. Raises as `read_pairs`."""
    return read_pairs(paths, options, parse)


def parse(where: str, line: dict[str, Any], is_student: bool) -> Scored:
    """What a response says of its text."""
    said = prompt_tokens_of(line, where)
    choices = line.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict):
        raise LogError(f"{where}: its choice is no object; it is no response of vLLM")
    entries = line.get("prompt_logprobs", choice.get("prompt_logprobs"))
    generated = isinstance(choice.get("logprobs"), dict) and choice.get("token_ids")
    if is_student and generated and said is None:
        return openai.parse(where, line, is_student)
    if not isinstance(entries, list) or not entries:
        raise LogError(f"{where}: has no prompt_logprobs; score the text with prompt_logprobs=0")
    ids = line.get("prompt_token_ids", choice.get("prompt_token_ids"))
    known = None if ids is None else ints(ids, where, "prompt_token_ids")
    if known is not None and len(known) != len(entries):
        raise LogError(
            f"{where}: has {len(known)} prompt_token_ids for {len(entries)} prompt_logprobs"
        )
    if known is None and said is None and is_student:
        raise LogError(
            f"{where}: does not tell where the completion begins; add num_prompt_tokens, the "
            "number of tokens before it, to the line"
        )
    tokens, values = [], []
    likeliest: list[Likeliest] = []
    for place, entry in enumerate(entries):
        own = None if known is None else int(known[place])
        token, value, likely = _entry(where, place, entry, own)
        tokens.append(token)
        values.append(value)
        likeliest.append(likely)
    with_more = any(len(one) > 1 for one in likeliest)
    token_T = np.array(tokens, dtype=np.int64)
    return Scored(
        where,
        token_T,
        floats(values, where),
        0,
        said,
        likeliest if with_more else None,
        None if known is None else token_T.tolist(),
        facts_of(line),
    )


def _entry(
    where: str, place: int, entry: Any, own: int | None
) -> tuple[int, float | None, Likeliest]:
    """The realised token of a place, its log-probability, and all that are listed."""
    if entry is None:
        return -1 if own is None else own, None, {}
    if not isinstance(entry, dict) or not entry:
        raise LogError(f"{where}: prompt_logprobs of place {place} is no object of tokens")
    here = f"{where}: prompt_logprobs of place {place}"
    try:
        found = {
            int(token): number(one["logprob"] if isinstance(one, dict) else one, here)
            for token, one in entry.items()
        }
    except (TypeError, ValueError, KeyError):
        raise LogError(f"{here} has no id and logprob") from None
    check_ids(found, here)
    likely = {token: logprob for token, logprob in found.items() if logprob is not None}
    if len(likely) < len(found):
        raise LogError(f"{here} has a token whose logprob is null")
    # vLLM lists the realised token first.
    token = next(iter(likely)) if own is None else own
    if token not in likely:
        raise LogError(
            f"{where}: place {place} has token {token} by prompt_token_ids, but no logprob of it: "
            "ids of another tokenizer"
        )
    return token, likely[token], likely
