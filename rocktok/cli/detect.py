"""`rocktok detect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocktok.cli import options
from rocktok.cli.job import Job, job_options

if TYPE_CHECKING:
    from rocktok.analyse.results import DetectResult
    from rocktok.engine.passes import Engine
    from rocktok.log import Log


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


@click.command("detect")
@options.pre_and_post_options
@options.table_option
@click.option(
    "--context",
    type=_choice("auto", "required", "off"),
    default="auto",
    show_default=True,
    help="Persistence and context consistency, which need the same text at two steps.",
)
@click.option("--quantile-pre", type=float, default=0.8, show_default=True, metavar="Q")
@click.option("--quantile-post", type=float, metavar="Q", help="Default 0.8 (recalcitrant: 0.2).")
@click.option("--tau-pre", type=float, metavar="NATS", help="Threshold instead of a quantile.")
@click.option("--tau-post", type=NumberOr("same"), metavar="NATS|same")
@click.option(
    "--persistence",
    type=_choice("high", "recalcitrant"),
    default="high",
    show_default=True,
    help="high: hard at both steps. recalcitrant: hard at first, and hardly better later.",
)
@click.option("--window", type=int, default=8, show_default=True, help="Tokens on each side.")
@click.option(
    "--similarity",
    type=_choice("surprisal", "bag", "jaccard", "positional", "embedding"),
    default="surprisal",
    show_default=True,
)
@click.option(
    "--partners",
    type=_choice("other-prompt", "other-sequence", "all"),
    default="other-prompt",
    show_default=True,
    help="Which occurrences a context is compared with.",
)
@click.option(
    "--gamma", type=float, default=0.5, show_default=True, help="Windows alike from here."
)
@click.option(
    "--eta",
    type=NumberOr("auto"),
    default="auto",
    show_default=True,
    help="Share of similar partners; auto: above what positions without the token reach.",
)
@click.option(
    "--embeddings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="NumPy .npy matrix, a row for each token id; for --similarity embedding.",
)
@options.top_k_option
@click.option("--tau-r", type=float, metavar="NATS", help="Rocks by score instead of --top-k.")
@click.option("--min-frequency", type=int, default=1, show_default=True)
@click.option("--exclude-most-frequent", type=int, default=0, show_default=True, metavar="N")
@click.option(
    "--cap",
    type=int,
    default=50_000,
    show_default=True,
    metavar="N",
    help="Judge a sample of a type's contexts, with an interval, above N persistent occurrences.",
)
@click.option("--exact", is_flag=True, help="Judge every context, whatever it takes.")
@click.option("--all", "all_types", is_flag=True, help="Every type seen, not only the rocks.")
@click.option("--lifts", is_flag=True, help="Whether the loss singles the contexts out; slower.")
@job_options()
def detect_command(job: Job, embeddings: Path | None, **parameters: Any) -> None:
    """Find the tokens of LOG whose loss persists in recurring contexts.

    Ranks token types by context Rock Score: the loss a type carries, times the share of its
    occurrences that are hard at both steps in contexts that recur in other prompts.
    """
    from rocktok.engine.detect import detect

    matrix = _load_embeddings(embeddings) if embeddings is not None else None

    def analyse(log: Log, engine: Engine) -> DetectResult:
        return detect(log, embeddings=matrix, engine=engine, **parameters)

    job.run("detect", analyse)


def _load_embeddings(path: Path) -> Any:
    import numpy as np

    from rocktok.errors import UsageError

    try:
        matrix = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a NumPy .npy matrix ({error})") from error
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.number):
        raise UsageError(f"{path}: shape {matrix.shape}; it must have a row for each token id")
    return matrix.astype(np.float64)
