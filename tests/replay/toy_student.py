"""A student and a teacher without weights: logits are hashes of the last tokens.

As a backend of interventions, and as the plain loop that writes a completion from its beginning:
the same arithmetic for any batch, so that what shares a prefix can be compared token for token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from rocktok.hashing import hash_rows
from rocktok.replay.intervene.arms import Plan
from rocktok.replay.intervene.backend import Decoding, Scores, Span, Start
from rocktok.replay.intervene.draws import gumbel, row_keys
from rocktok.replay.intervene.rules import Rule

VOCABULARY = 9
END = 0
#: Tokens that a logit depends on.
ORDER = 3


def logits(ids: Sequence[int], who: int) -> Any:
    """(V,) of the next token; `who`: 0 the student, 1 the teacher."""
    return _logits(tuple(int(v) for v in ids[-ORDER:]), who).copy()


@cache
def _logits(ids: tuple[int, ...], who: int) -> Any:
    last = np.array(ids, dtype=np.int64)
    key = int(hash_rows(who, np.array([int((last * 31 ** np.arange(len(last))).sum())]))[0] >> 40)
    drawn = hash_rows(key, np.arange(VOCABULARY)) >> np.uint64(40)
    shared = hash_rows(int(last[-1]), np.arange(VOCABULARY)) >> np.uint64(40)
    # The end is seldom likely, and both agree now and then.
    values = 4.0 * drawn / 2**24 + 3.0 * shared / 2**24
    values[END] -= 1.0
    return values


def log_softmax(values: Any) -> Any:
    return values - np.log(np.exp(values - values.max()).sum()) - values.max()


class ToyBackend:
    """The backend, which counts what it is asked for."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.generated: list[tuple[int, int]] = []

    def generate(self, starts: Sequence[Start], rule: Rule) -> list[Any]:
        found = []
        for start in starts:
            assert not self.decoding.ended(start.written_T)
            text = start.written_T.tolist()
            prompt = start.prompt_T.tolist()
            while True:
                text.append(draw(prompt, text, self.decoding, start.stream, rule))
                if self.decoding.ended(np.array(text)) or text[-1] == rule.pause:
                    break
            self.generated.append((len(start.written_T), len(text)))
            found.append(np.array(text, dtype=np.int32))
        return found

    def score(self, spans: Sequence[Span]) -> list[Scores]:
        found = []
        for span in spans:
            ids = span.before_T.tolist()
            loss, likeliest = [], []
            for token in span.token_T.tolist():
                p, q = (log_softmax(logits(ids, who)) for who in (0, 1))
                loss.append(float((np.exp(p) * (p - q)).sum()))
                likeliest.append(int(np.argmax(q)))
                ids.append(token)
            found.append(Scores(np.array(loss, np.float32), np.array(likeliest, np.int32)))
        return found


def draw(prompt: list[int], text: list[int], decoding: Decoding, stream: int, rule: Rule) -> int:
    """The next token."""
    values = logits([*prompt, *text], 0)
    if rule.banned is not None and bans(text, rule):
        values[rule.banned] = -np.inf
    if decoding.temperature > 0:
        key = row_keys(np.array([stream], np.uint64), np.array([len(text)]))
        values = values / decoding.temperature + gumbel(key, VOCABULARY)[0]
    return int(np.argmax(values))


def bans(text: list[int], rule: Rule) -> bool:
    """Whether the rule's token is banned behind a text; a twin of `Contexts.match`."""
    if rule.contexts is None:
        return True
    width, least = rule.contexts.width, rule.contexts.min_similarity
    padded = [None] * width + list(text)
    for window in rule.contexts.left_WK.tolist():
        same = sum(a is not None and a == b for a, b in zip(padded[-width:], window, strict=True))
        if same and same / width >= least - 1e-9:
            return True
    return False


def written_whole(
    prompt: list[int], decoding: Decoding, stream: int, plan: Plan | None, *, every: bool = False
) -> tuple[list[int], int | None]:
    """(completion, first place where the arm changed what was drawn), from the beginning.

    `every`: replace at all occurrences.
    """
    text: list[int] = []
    first = None
    banned = plan is not None and plan.mode != "replace"
    rule = Rule(plan.candidate.token_id, plan.contexts) if plan and banned else Rule()
    while not decoding.ended(np.array(text, dtype=np.int32)):
        plain = draw(prompt, text, decoding, stream, Rule())
        token = draw(prompt, text, decoding, stream, rule)
        replacing = plan is not None and not banned and plain == plan.candidate.token_id
        if replacing and (every or first is None):
            token = int(np.argmax(logits([*prompt, *text], 1)))
        if token != plain and first is None:
            first = len(text)
        text.append(token)
    return text, first
