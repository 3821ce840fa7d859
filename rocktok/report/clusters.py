"""Functional clusters of tokens, by patterns of their text; the rules, our own, are a table.

The first rule whose pattern matches a token's whole text says what it is. Text pieces are judged
as they stand: a piece of a word is a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rocktok.errors import UsageError

_MARKERS = """
    accordingly actually additionally again all also alternatively and answer anyway as assume
    because besides but check clearly conclude conclusion consequently consider finally first
    firstly for furthermore given hence here hmm however if indeed instead last lastly let lets
    likewise maybe meanwhile moreover namely next note notice now observe obviously okay ok
    otherwise perhaps recall second secondly similarly since so specifically step still suppose
    that then there therefore third this though thus wait we well yet
"""


@dataclass(frozen=True)
class Rule:
    """A cluster: its name, a regular expression for the whole text, and the same in words."""

    name: str
    pattern: str
    meaning: str


#: The first match wins.
RULES = (
    Rule(
        "whitespace and Markdown",
        r"\s+|\s*(#+|\*+|_+|`+|~~+|-+|\|)\s*",
        "only blanks or line breaks, or marks of Markdown: # * _ ` ~~ - |",
    ),
    Rule("digits", r"\s*\d[\d.,]*\s*", "a number, or a part of one"),
    Rule(
        "discourse markers",
        rf"(?i:\s*({'|'.join(_MARKERS.split())}))\s*",
        "words that steer the text, from a list: so, then, thus, first, now, we, let, answer, …",
    ),
    Rule(
        "words", r"\s*[^\W\d_]+(['’][^\W\d_]+)?\s*", "letters alone: other words and parts of them"
    ),
    Rule(
        "delimiters", r"[\W_]+", "punctuation, brackets and mathematical signs, no letter or digit"
    ),
)

OTHER = Rule("other", "", "what no rule takes: code, commands, ids without text, mixtures")

#: All names, in the order of the page.
NAMES = (*(rule.name for rule in RULES), OTHER.name)


class Clusters:
    """Finds the cluster of a token's text.

    Args:
        own: name → patterns (regular expressions for the whole text), asked before the table.

    Raises:
        UsageError: a pattern that is no regular expression.
    """

    def __init__(self, own: Mapping[str, Sequence[str]] | None = None) -> None:
        self.own = {name: list(patterns) for name, patterns in (own or {}).items()}
        first = [Rule(name, p, "") for name, patterns in self.own.items() for p in patterns]
        self.rules = (*first, *RULES)
        self.names = tuple(dict.fromkeys((*self.own, *NAMES)))
        self._compiled = []
        for rule in self.rules:
            try:
                self._compiled.append((rule.name, re.compile(rule.pattern)))
            except re.error as error:
                raise UsageError(
                    f"clusters: {rule.pattern!r} of {rule.name!r} is no regular expression "
                    f"({error})",
                    parameter="clusters",
                ) from error

    def of(self, text: str) -> str:
        """The first cluster that matches the text; "other" if none does."""
        for name, pattern in self._compiled:
            if pattern.fullmatch(text):
                return name
        return OTHER.name
