"""Options that say what a rock is, as `detect` and `report` take them."""

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
    """A number, or one word that stands for a rule."""

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
        help="Quantile of the losses that sets the earlier threshold.",
    ),
    click.option(
        "--quantile-post",
        type=float,
        metavar="Q",
        help="Quantile that sets the later threshold. Default: 0.8 (recalcitrant: 0.2).",
    ),
    click.option(
        "--tau-pre",
        type=float,
        metavar="NATS",
        help="Earlier threshold in nats, instead of a quantile.",
    ),
    click.option(
        "--tau-post",
        type=NumberOr("same"),
        metavar="NATS|same",
        help="Later threshold in nats, instead of a quantile; same: the earlier one.",
    ),
    click.option(
        "--persistence",
        type=_choice("high", "recalcitrant"),
        default="high",
        show_default=True,
        help="Meaning of persistent. high: hard at both steps. recalcitrant: hard at the earlier "
        "step, and hardly better later.",
    ),
    click.option(
        "--window",
        type=int,
        default=8,
        show_default=True,
        help="Tokens on each side of an occurrence.",
    ),
    click.option(
        "--similarity",
        type=_choice("surprisal", "bag", "jaccard", "positional", "embedding", "hidden"),
        default="surprisal",
        show_default=True,
        help="Similarity of two contexts. surprisal: cosine of windows, weighted by rarity. "
        "hidden: of the hidden states by which the teacher predicted the tokens.",
    ),
    click.option(
        "--partners",
        type=_choice("other-prompt", "other-sequence", "all"),
        default="other-prompt",
        show_default=True,
        help="Occurrences that a context is compared with.",
    ),
    click.option(
        "--gamma",
        "--min-similarity",
        "gamma",
        type=NumberOr("auto"),
        default="auto",
        show_default=True,
        help="Minimum similarity for two contexts to match. auto: 0.5; for hidden, what 95% of "
        "random pairs of positions do not exceed.",
    ),
    click.option(
        "--eta",
        type=NumberOr("auto"),
        default="auto",
        show_default=True,
        help="Minimum share of similar partners; auto: above what positions without the token "
        "reach.",
    ),
    click.option(
        "--embeddings",
        type=options.InputFile(exists=True),
        callback=_matrix,
        help="NumPy .npy matrix, a row for each token id; for --similarity embedding.",
    ),
    click.option(
        "--rule",
        type=_choice("tested", "top-k"),
        help="Rule for rocks. tested: hard and recurring beyond chance. top-k: the first by "
        "context Rock Score. "
        "Default: tested; top-k with --top-k, --tau-r or a number as --eta.",
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
        help="Minimum hardness of a tested rock, as a multiple of what is expected.",
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
        help="Leave out types with fewer occurrences.",
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
        help="Judge a sample of a type's contexts, with an interval, above N of them.",
    ),
    click.option("--exact", is_flag=True, help="Judge every context, however many there are."),
)


def rock_options(function: F) -> F:
    """What `rocktok.detect` takes but `seed` and `all_types`; embeddings as a file."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
