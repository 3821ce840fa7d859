"""What a backend of models must do: continue texts under a rule, and score texts.

A new one (an inference server, another library) is a class with these two methods; everything
else, the sharing of prefixes included, stands in `trial`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rocktok._types import Array
    from rocktok.replay.intervene.rules import Rule


@dataclass(frozen=True)
class Decoding:
    """How completions are written.

    Attributes:
        max_new_tokens: tokens that a completion has at most.
        temperature: of the draws; 0: greedy.
        terminal_ids: tokens that end a completion, and are its last.
    """

    max_new_tokens: int
    temperature: float = 0.0
    terminal_ids: tuple[int, ...] = ()

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    def ended(self, text_T: Array) -> bool:
        """Whether a completion is whole: terminal token, or longest."""
        return len(text_T) >= self.max_new_tokens or (
            len(text_T) > 0 and int(text_T[-1]) in self.terminal_ids
        )

    def truncated(self, text_T: Array) -> bool:
        """Whether a whole completion ends by its length alone: at the limit, by no terminal token.

        Where there are no terminal ids, every completion that is as long as it may be.
        """
        return len(text_T) >= self.max_new_tokens and int(text_T[-1]) not in self.terminal_ids

    def cut(self, text_T: Array, start: int) -> Array:
        """Up to the first terminal token from `start` on, and no longer than it may be."""
        text_T = text_T[: self.max_new_tokens]
        end_E = np.flatnonzero(np.isin(text_T[start:], self.terminal_ids))
        return text_T[: start + int(end_E[0]) + 1] if len(end_E) else text_T


@dataclass(frozen=True)
class Start:
    """A text to go on with.

    Attributes:
        prompt_T, written_T: token ids of the prompt, and of its completion so far.
        stream: names the draws of the text, see `draws`.
    """

    prompt_T: Array
    written_T: Array
    stream: int


@dataclass(frozen=True)
class Span:
    """Tokens to score, and all that stands before them."""

    before_T: Array
    token_T: Array


@dataclass(frozen=True)
class Scores:
    """Of the tokens of a span, under the models as they are (temperature 1, nothing banned).

    Attributes:
        loss_T: float32, reverse KL of student from teacher in nats.
        teacher_T: int32, the teacher's likeliest token.
    """

    loss_T: Array
    teacher_T: Array


class Backend(Protocol):
    """A student, and the teacher where there is one."""

    def generate(self, starts: Sequence[Start], rule: Rule) -> list[Array]:
        """Whole completions, what was written included; the starts are one batch, not ended yet.

        A completion ends behind a terminal token, at the longest length, or behind `rule.pause`.
        """
        ...

    def score(self, spans: Sequence[Span]) -> list[Scores]:
        """Statistics of each span; needs the teacher. A span without tokens has none."""
        ...
