"""Options that say what a rock is, as `detect` and `report` take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rocktok.cli import options

F = TypeVar("F", bound=Callable[..., Any])


class NumberOr(click.ParamType[float | str]):
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
        help="Persistence and context consistency, which need the same text at two steps.",
    ),
    click.option("--quantile-pre", type=float, default=0.8, show_default=True, metavar="Q"),
    click.option(
        "--quantile-post", type=float, metavar="Q", help="Default 0.8 (recalcitrant: 0.2)."
    ),
    click.option("--tau-pre", type=float, metavar="NATS", help="Threshold instead of a quantile."),
    click.option("--tau-post", type=NumberOr("same"), metavar="NATS|same"),
    click.option(
        "--persistence",
        type=_choice("high", "recalcitrant"),
        default="high",
        show_default=True,
        help="high: hard at both steps. recalcitrant: hard at first, and hardly better later.",
    ),
    click.option("--window", type=int, default=8, show_default=True, help="Tokens on each side."),
    click.option(
        "--similarity",
        type=_choice("surprisal", "bag", "jaccard", "positional", "embedding"),
        default="surprisal",
        show_default=True,
    ),
    click.option(
        "--partners",
        type=_choice("other-prompt", "other-sequence", "all"),
        default="other-prompt",
        show_default=True,
        help="Which occurrences a context is compared with.",
    ),
    click.option(
        "--gamma", type=float, default=0.5, show_default=True, help="Windows alike from here."
    ),
    click.option(
        "--eta",
        type=NumberOr("auto"),
        default="auto",
        show_default=True,
        help="Share of similar partners; auto: above what positions without the token reach.",
    ),
    click.option(
        "--embeddings",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=_matrix,
        help="NumPy .npy matrix, a row for each token id; for --similarity embedding.",
    ),
    click.option(
        "--rule",
        type=_choice("tested", "top-k"),
        help="tested: hard and recurring beyond chance. top-k: the first by context Rock Score. "
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
        help="How many times as hard as expected a tested rock is, at least.",
    ),
    click.option(
        "--top-k", type=int, metavar="N", help="Rule top-k: how many rocks at most. Default: 100."
    ),
    click.option(
        "--tau-r", type=float, metavar="NATS", help="Rule top-k: rocks by score instead of --top-k."
    ),
    click.option("--min-frequency", type=int, default=1, show_default=True),
    click.option("--exclude-most-frequent", type=int, default=0, show_default=True, metavar="N"),
    click.option(
        "--cap",
        type=int,
        default=50_000,
        show_default=True,
        metavar="N",
        help="Judge a sample of a type's contexts, with an interval, above N of them.",
    ),
    click.option("--exact", is_flag=True, help="Judge every context, whatever it takes."),
)


def rock_options(function: F) -> F:
    """What `rocktok.detect` takes but `seed` and `all_types`; embeddings as a file."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
