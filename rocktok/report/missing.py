"""What a log lacks for the analyses of a report, and what would help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rocktok.analyses.detect.passes import DetectRun
from rocktok.engine.choose import REMEDY
from rocktok.report.result import PERSISTENCE

Row = dict[str, Any]


def lacks(run: DetectRun) -> list[Row]:
    """`what` cannot be said, `why`, and the `remedy`, of a log on which `detect` has run."""
    rows = (*_no_context(run), *_columns(run), *_tables(run))
    return [dict(zip(("what", "why", "remedy"), row, strict=True)) for row in rows]


def _no_context(run: DetectRun) -> Iterator[tuple[str, str, str]]:
    if run.choice.pre is not None:
        return
    remedy = REMEDY
    if run.params.context == "off":
        remedy = "leave out --context off"
    elif run.params.table == "rollout" and run.log.shards("fixed"):
        remedy = "leave out --table rollout"
    yield PERSISTENCE, str(run.choice.no_context), remedy


def _columns(run: DetectRun) -> Iterator[tuple[str, str, str]]:
    table = run.view.table
    if "grad_norm" not in run.log.columns(table):
        yield (
            "who takes the gradient",
            f"{table}/ has no column grad_norm",
            "record it with Recorder(columns=[…, 'grad_norm'])",
        )
    elif not run.log.complete_steps("gradients"):
        yield (
            "which way the gradients point",
            "no gradient sums in this log",
            "record sums with Recorder(gradient_types=…) or Recorder(gradient_sketch=…)",
        )


def _tables(run: DetectRun) -> Iterator[tuple[str, str, str]]:
    if not len(run.log.vocab):
        yield (
            "the texts of tokens, and what they are for",
            "the log has no vocab.parquet",
            "write one (token_id, token, bytes), or record with the tokenizer at hand",
        )
    if not run.source.prompts.known:
        yield (
            "which sequences share a prompt",
            "the log has no sequences/; each sequence counts as its own prompt, and intervals "
            "may be too narrow",
            "write sequences/ (sequence_id, step, num_tokens, prompt_id)",
        )
