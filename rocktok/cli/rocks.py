"""Options that define a rock, for `detect` and `report`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rocktok.cli import options

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _NumberOrWord = click.ParamType[float | str]
else:
    _NumberOrWord = click.ParamType  # generic since click 8.4


class NumberOr(_NumberOrWord):
    """A number, or one word that names a rule."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.name = f"number|{word}"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        """Parse; a usage error names what is allowed."""
        if value == self.word:
            return self.word
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {self.word!r}", param, ctx)


def _choice(*words: str) -> click.Choice[str]:
    return click.Choice(words)


def _matrix(_: click.Context, parameter: click.Parameter, path: Path | None) -> Any:
    from rocktok.inputs import load_embeddings

    return None if path is None else load_embeddings(path)


_OPTIONS = (
    options.pre_and_post_options,
    options.table_option,
    click.option(
        "--context",
        type=_choice("auto", "required", "off"),
        default="auto",
        show_default=True,
        help="Use persistence and context consistency; they need the same text at two steps.",
    ),
    click.option(
        "--quantile-pre",
        type=float,
        default=0.8,
        show_default=True,
        metavar="Q",
        help="Loss quantile that is the threshold at the earlier step.",
    ),
    click.option(
        "--quantile-post",
        type=float,
        metavar="Q",
        help="Loss quantile that is the threshold at the later step. Default: 0.8. For persistence "
        "recalcitrant: quantile of the loss decreases, 0.2.",
    ),
    click.option(
        "--tau-pre",
        type=float,
        metavar="NATS",
        help="Threshold at the earlier step in nats, instead of a quantile.",
    ),
    click.option(
        "--tau-post",
        type=NumberOr("same"),
        metavar="NATS|same",
        help="Threshold at the later step in nats, instead of a quantile. same: the earlier one.",
    ),
    click.option(
        "--persistence",
        type=_choice("high", "recalcitrant"),
        default="high",
        show_default=True,
        help="Definition of persistent. high: loss above the threshold at both steps. "
        "recalcitrant: above it at the earlier step, and hardly lower at the later one.",
    ),
    click.option(
        "--window",
        type=int,
        help="Tokens on each side of an occurrence. Default: 8. Implies surprisal under similarity "
        "auto.",
    ),
    click.option(
        "--similarity",
        type=_choice("auto", "surprisal", "bag", "jaccard", "positional", "embedding", "hidden"),
        default="auto",
        show_default=True,
        help="Similarity of two contexts. auto: hidden where the log has contexts/, else "
        "surprisal. hidden: cosine of the teacher's hidden states before the tokens. surprisal: "
        "cosine of windows, weighted by token rarity.",
    ),
    click.option(
        "--partners",
        type=_choice("other-prompt", "other-sequence", "all"),
        default="other-prompt",
        show_default=True,
        help="Occurrences that a context is compared with.",
    ),
    click.option(
        "--min-similarity",
        "gamma",
        cls=options.Renamed,
        old="--gamma",
        type=NumberOr("auto"),
        default="auto",
        show_default=True,
        help="Minimum similarity for two contexts to match. auto: 0.5; for hidden, the 95% "
        "quantile of random pairs of positions. A number implies surprisal under similarity auto.",
    ),
    click.option(
        "--min-partner-share",
        "eta",
        cls=options.Renamed,
        old="--eta",
        type=NumberOr("auto"),
        default="auto",
        show_default=True,
        help="Minimum share of similar partners for a context to recur. auto: the share that 95% "
        "of positions away from the token do not exceed.",
    ),
    click.option(
        "--embeddings",
        type=options.InputFile(exists=True),
        callback=_matrix,
        help="NumPy .npy matrix with one row per token id, for --similarity embedding.",
    ),
    click.option(
        "--rule",
        type=_choice("tested", "top-k"),
        help="Rule that selects rocks. tested: hard and recurring beyond chance. top-k: the first "
        "by context Rock Score. "
        "Default: tested; top-k with --top-k, --tau-r or a number as --min-partner-share.",
    ),
    click.option(
        "--fdr",
        type=float,
        default=0.05,
        show_default=True,
        metavar="Q",
        help="False discovery rate of tested rocks.",
    ),
    click.option(
        "--min-hardness",
        type=float,
        default=1.5,
        show_default=True,
        metavar="X",
        help="Minimum hardness of a tested rock, as a multiple of its expected value.",
    ),
    click.option(
        "--top-k",
        type=int,
        metavar="N",
        help="Maximum number of rocks under rule top-k. Default: 100.",
    ),
    click.option(
        "--tau-r",
        type=float,
        metavar="NATS",
        help="Minimum score under rule top-k, instead of --top-k.",
    ),
    click.option(
        "--min-frequency",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="Leave out types with fewer than N occurrences.",
    ),
    click.option(
        "--exclude-most-frequent",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="Leave out the N most frequent types.",
    ),
    click.option(
        "--cap",
        type=int,
        default=50_000,
        show_default=True,
        metavar="N",
        help="Maximum number of contexts per type; above it a sample is judged, with an interval.",
    ),
    click.option("--exact", is_flag=True, help="Judge every context, without a cap."),
)


def rock_options(function: F) -> F:
    """The parameters of `rocktok.detect` except `seed` and `all_types`; embeddings as a file."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
