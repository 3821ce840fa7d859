"""Titles and captions of the figures: what is drawn, on what, and how to read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Caption(NamedTuple):
    """Title, and what to know when looking."""

    title: str
    text: str


_CAPTIONS = {
    "funnel": Caption(
        "Loss and frequency",
        "Mean loss of every token type against how often it stands in the text. The line is the "
        "median of types of like frequency, the band their 10th to 90th percentile. Rare types "
        "spread more by chance alone.",
    ),
    "ccr": Caption(
        "Context-consistent rock rate",
        "Each rock: share of its occurrences that are retained (hard at both steps, in recurring "
        "contexts) against its Rock Score, the sum of its losses. Dark: most of its hard "
        "occurrences recur.",
    ),
    "clusters": Caption(
        "What rocks are for",
        "Rock types by the look of their text: how many, the likeliest of them, and their shares "
        "of the positions and of the loss.",
    ),
    "density": Caption(
        "Rocks per sequence",
        "Sequences by the share of their positions that is of a rock type, and that is a retained "
        "occurrence of one. The first counts easy occurrences, too.",
    ),
    "position": Caption(
        "Where in the text",
        "Mean loss by relative position in the completion, of rock types and of all others.",
    ),
    "stagnation": Caption(
        "Loss over training",
        "Mean loss of a group's types, each counting the same; bands are 95% over prompts. Groups "
        "are chosen at the first step on one half of the prompts and measured on the other: these "
        "rocks are the types with the most loss there, not the list of this page.",
    ),
    "early_late": Caption(
        "Early against late loss",
        "Mean loss of each type with 20 occurrences or more at two steps, on the same text. Below "
        "the line is learned. Rocks are chosen by what is drawn here, so they lie high by choice.",
    ),
    "delta_kl": Caption(
        "Change of the loss",
        "ΔKL of each type of a group, chosen on one half of the prompts and measured on the other; "
        "bars are medians. Linear up to 0.1, logarithmic beyond.",
    ),
    "shares": Caption(
        "Shares of positions, loss and gradient",
        "Of all positions, of the loss and of the summed gradient norms, with 95% intervals over "
        "prompts. Norms are summed; vectors cancel.",
    ),
    "gradient_norm": Caption(
        "Size of the gradient",
        "One point for each type. The mean gradient of a rare type is larger by noise alone: it "
        "falls as one over the root of the occurrences.",
    ),
    "gradient_cosine": Caption(
        "Direction of the gradient",
        "Of types with gradient sums in both halves of the prompts: cosine of a type's mean "
        "gradient in one half with the sum of all others' "
        "in the other half. Zero: it points nowhere in particular.",
    ),
    "coverage": Caption(
        "Cutoff: coverage and stability",
        "For each K, the share of the loss that the first K types by Rock Score carry, and how far "
        "two samples of prompts agree on them: disjoint halves understate it, nested samples "
        "overstate it. The shade is the range over the draws.",
    ),
    "sensitivity": Caption(
        "Sensitivity",
        "How many rocks there are (numbers), and their Jaccard with the rocks in use (shade), if γ "
        "and η were others, and with the null drawn nearer. The frame is what is in use.",
    ),
}  # fmt: skip

#: The order in which a page tells its story.
ORDER = tuple(_CAPTIONS)


def caption_title(name: str) -> str:
    """Title of one figure."""
    return _CAPTIONS[name].title


def caption(name: str, numbers: Mapping[str, Any]) -> Caption:
    """Of one figure, with what its numbers ask to be said."""
    title, text = _CAPTIONS[name]
    if name == "gradient_norm" and numbers["measure"] == "mean_grad_norm":
        text = "Mean gradient norm of each type; bars are medians. No directions were recorded."
    if name in ("stagnation", "delta_kl") and numbers["table"] == "rollout":
        whose = f"Of {', '.join(numbers['rollouts'])}: each" if numbers.get("rollouts") else "Each"
        text += f" {whose} step's own rollouts: learning and drift of the contexts are mixed."
    if name == "ccr" and numbers["persistence"] == "recalcitrant":
        text = text.replace("hard at both steps", "hard at first, hardly better later")
    if name == "sensitivity" and numbers["in_use"]["top_k"]:
        text += f" No cell counts more than the first {numbers['in_use']['top_k']:,} (--top-k)."
    if name == "funnel" and len(numbers["points"]) < numbers["types"]:
        text += f" {len(numbers['points']):,} of {numbers['types']:,} types are drawn as points."
    return Caption(title, text)
