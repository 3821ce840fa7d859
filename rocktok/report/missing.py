"""Columns and tables that a log lacks for a report, each with the remedy."""

from __future__ import annotations

from collections.abc import Iterator

from rocktok.analyses.detect.detection import Detection
from rocktok.engine.choose import REMEDY
from rocktok.report.other_analyses import Missing
from rocktok.report.result import PERSISTENCE


def lacks(detection: Detection) -> list[Missing]:
    """Results that the log does not allow; most of them another recording would."""
    return [*_no_context(detection), *_columns(detection), *_tables(detection)]


def _no_context(detection: Detection) -> Iterator[Missing]:
    params, steps = detection.params, detection.steps
    if steps.pre is not None:
        return
    remedy = REMEDY
    if params.context == "off":
        remedy = "leave out --context off"
    elif params.table == "rollout" and detection.run.log.shards("fixed"):
        remedy = "leave out --table rollout"
    yield {"what": PERSISTENCE, "why": str(steps.no_context), "remedy": remedy}


def _columns(detection: Detection) -> Iterator[Missing]:
    log, table = detection.run.log, detection.run.table
    if "grad_norm" not in log.columns(table):
        yield {
            "what": "shares of the gradient norm by token type",
            "why": f"{table}/ has no column grad_norm",
            "remedy": "record it with Recorder(columns=[…, 'grad_norm'])",
        }
    elif not log.complete_steps("gradients"):
        yield {
            "what": "gradient directions",
            "why": "no gradient sums in this log",
            "remedy": "record sums with Recorder(gradient_types=…) or Recorder(gradient_sketch=…)",
        }


def _tables(detection: Detection) -> Iterator[Missing]:
    if not len(detection.run.log.vocab):
        yield {
            "what": "texts and functional clusters of tokens",
            "why": "the log has no vocab.parquet",
            "remedy": "write vocab.parquet (token_id, token, bytes), or record with the tokenizer",
        }
    if not detection.source.prompts.known:
        yield {
            "what": "grouping of sequences by prompt",
            "why": "the log has no sequences/; each sequence counts as its own prompt, and "
            "intervals may be too narrow",
            "remedy": "write sequences/ (sequence_id, step, num_tokens, prompt_id)",
        }
