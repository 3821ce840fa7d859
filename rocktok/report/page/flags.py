"""What the flags of a row say, in words that a reader without the definitions understands."""

from __future__ import annotations

from collections.abc import Collection

#: Flag → a sentence on one token type.
FLAGS = {
    "low_power": "Few hard occurrences, or few prompts with them: too little to be sure of.",
    "null_scarce": "Too few positions far from it to compare its contexts with: not judged.",
    "sampled": "Its numbers of contexts are estimated from a sample of its hard occurrences.",
    "shadowed": "It stands beside a harder rock, and is not hard without that one.",
    "stretch": "It is no harder than what stands beside it: the stretch of text is hard.",
    "position_bound": "It stands where few others do: token and place cannot be told apart.",
    "excluded": "Left out of the ranking by choice.",
    "not_in_rollouts": "The student of the later step no longer writes it.",
    "not_singled_out": "It recurs, but its loss does not single its contexts out.",
    "lift_unknown": "Whether its loss singles its contexts out is not known.",
    "few_prompts_carry_it": "Too few prompts carry how far its loss singles contexts out.",
    "lifts_sampled": "How far its loss singles contexts out is estimated from a sample.",
}

#: Flag → what it says of several rocks, after their number; in the order of their weight.
_OF_SEVERAL = {
    "low_power": "rest on few hard occurrences or prompts",
    "shadowed": "stand beside a harder rock",
    "stretch": "stand in a stretch of text that is as hard",
    "position_bound": "cannot be told apart from their place",
    "not_singled_out": "recur in contexts that the loss does not single out",
    "lift_unknown": "leave that open",
    "not_in_rollouts": "are no longer written by the student",
}


def explained(flags: Collection[str]) -> list[str]:
    """A sentence for each flag; a flag without one as itself."""
    return [FLAGS.get(flag, flag) for flag in flags]


def of_several(flags: Collection[Collection[str]]) -> str:
    """How many of some rows have each flag that matters: a sentence, or "".

    >>> of_several([["low_power"], ["low_power", "stretch"], []])
    'Of the 3, 2 rest on few hard occurrences or prompts, and 1 stands in a stretch of text that \
is as hard.'
    """
    counted = {flag: sum(flag in row for row in flags) for flag in _OF_SEVERAL}
    parts = [f"{n:,} {_words(flag, n)}" for flag, n in counted.items() if n]
    if not parts:
        return ""
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"
    return f"Of the {len(flags):,}, {listed}."


def _words(flag: str, number: int) -> str:
    text = _OF_SEVERAL[flag]
    if number > 1:
        return text
    verb, rest = text.split(" ", 1)
    one = {"are": "is", "have": "has", "cannot": "cannot"}.get(verb, f"{verb}s")
    return f"{one} {rest}".replace(" their place", " its place")
