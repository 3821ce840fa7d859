"""`rocktok intervene`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rocktok.cli import options
from rocktok.cli.help import Command
from rocktok.errors import RocktokError


def _rocks(_: click.Context, __: click.Parameter, text: str) -> str | tuple[int, ...]:
    """Token ids with commas between them, or the path of a file."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        return text


def _words(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _file(_: click.Context, __: click.Parameter, path: Path | None) -> Path:
    """A file alone: parts of a stopped run stand beside it."""
    if path is None:
        raise click.BadParameter("the output is a Parquet file; give its name")
    return path


_OPTIONS = (
    click.option("--student", required=True, metavar="MODEL",
                 help="Student checkpoint with its tokenizer: a directory or a name."),
    click.option("--problems", required=True, type=options.InputFile(), metavar="FILE",
                 help="JSONL file of problems, each with id, prompt and answer."),
    click.option("--rocks", required=True, callback=_rocks, metavar="FILE|IDS",
                 help="JSON file of `rocktok detect`, or token ids such as 277,13."),
    click.option("-o", "--output", required=True, type=options.OutputFile(), callback=_file,
                 metavar="FILE", help="Parquet file of outcomes; it appears whole or not at all."),
    click.option("--teacher", metavar="MODEL",
                 help="Teacher checkpoint, for mode replace and for losses after each place."),
    click.option("--checker", default="exact", show_default=True, metavar="RULE",
                 help="Rule for a correct completion: exact, boxed, regex:PATTERN, or "
                 "module:function."),
    click.option("--modes", default="ban", show_default=True, callback=_words, metavar="MODE,…",
                 help="Interventions. ban: the token is never written. ban-in-context: only in "
                 "contexts like those in which it recurs. replace: the teacher's likeliest token "
                 "is written instead."),
    click.option("--controls", type=options.InputFile(), metavar="FILE",
                 help="JSON file of `rocktok controls`. Default: other types in --rocks."),
    click.option("--placebo/--no-placebo", default=True, show_default=True,
                 help="Add, for each rock, a random type that occurs in as many completions."),
    click.option("--occurrences", type=options.InputFile(), metavar="FILE",
                 help="Parquet file of `rocktok occurrences`, for mode ban-in-context."),
    click.option("--min-similarity", type=float, metavar="SHARE",
                 help="Share of preceding tokens that must agree for ban-in-context. Default: from "
                 "the file of --occurrences."),
    click.option("--replace-at", type=click.Choice(["first", "all"]), default="first",
                 show_default=True,
                 help="Occurrences that mode replace acts on, among those where the teacher "
                 "prefers another token."),
    click.option("--top", type=int, metavar="N",
                 help="Maximum number of rocks, in the order of their file. Default: all."),
    click.option("--benchmark", metavar="NAME",
                 help="Name of the problems in the output. Default: the name of their file."),
    click.option("--max-new-tokens", type=int, default=512, show_default=True, metavar="N",
                 help="Maximum number of tokens per completion."),
    click.option("--temperature", type=float, default=0.0, show_default=True, metavar="T",
                 help="Sampling temperature; 0 for greedy decoding."),
    click.option("--rollouts", type=int, default=1, show_default=True, metavar="N",
                 help="Sampled completions per problem and seed."),
    click.option("--seeds", default="0", show_default=True, callback=options.numbers,
                 metavar="N,N,…", help="Random seeds of the sampled completions."),
    click.option("--baselines", type=int, default=1, show_default=True, metavar="N",
                 help="Number of runs without intervention; sampled anew each time."),
    click.option("--chat", is_flag=True,
                 help="Put prompts that are plain text into the student's chat template."),
    click.option("--device", help="Device to run on. Default: cuda if available, else cpu."),
    click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                 default="auto", show_default=True, help="Precision of the model weights."),
    click.option("--batch-tokens", type=int, default=16_384, show_default=True,
                 help="Maximum number of tokens per batch, counting completions at their maximum."),
    click.option("--force", is_flag=True, help="Replace the output file if it exists."),
    click.option("-q", "--quiet", is_flag=True, help="Print no notes on stderr."),
)  # fmt: skip


def _options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command(
    "intervene",
    cls=Command,
    common=(
        "student", "teacher", "problems", "rocks", "controls", "modes", "checker", "temperature",
        "rollouts", "output", "device",
    ),
    examples=(
        (
            "rocktok intervene --student out/checkpoint-500 --problems math.jsonl \\\n"
            "      --rocks rocks.json --checker boxed -o outcomes.parquet",
            "Answers with each rock banned, and with placebos banned.",
        ),
        (
            "rocktok intervene --student out/checkpoint-500 --teacher teacher/ \\\n"
            "      --problems math.jsonl --rocks 277,13 --modes ban,replace -o outcomes.parquet",
            "Two tokens banned, and replaced by the teacher's choice.",
        ),
    ),
)  # fmt: skip
@_options
def intervene_command(quiet: bool, **given: Any) -> None:
    """Solve problems with a student as it is, and with one rock banned or replaced at a time.

    Controls run beside the rocks: other types with similar losses or frequencies, and random types
    that occur in as many completions. Each run shares the baseline's text up to the place where it
    first differs. The same command continues an interrupted one. `rocktok pillars` tests the
    outcomes.
    """
    from rocktok.cli.progress import progress_bar

    try:
        import transformers  # noqa: F401 - loaded late by what follows, missed here

        from rocktok.replay.intervene.run import intervene
    except ImportError as error:
        raise RocktokError("intervene needs torch and transformers; install rocktok[hf]") from error
    with progress_bar(quiet=quiet) as tell:
        done = intervene(progress=tell, **given)
    options.notes(done.notes, quiet=quiet)
    options.say([*done.answer(), str(given["output"])])
