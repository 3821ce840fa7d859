"""What a log lacks for the analyses of a report, and what would help."""

from __future__ import annotations

from collections.abc import Iterator

from rocktok.analyses.detect.detection import Detection
from rocktok.engine.choose import REMEDY
from rocktok.report.other_analyses import Missing
from rocktok.report.result import PERSISTENCE


def lacks(detection: Detection) -> list[Missing]:
    """What cannot be said of a log, and what of that another recording could."""
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
            "what": "who takes the gradient",
            "why": f"{table}/ has no column grad_norm",
            "remedy": "record it with Recorder(columns=[…, 'grad_norm'])",
        }
    elif not log.complete_steps("gradients"):
        yield {
            "what": "which way the gradients point",
            "why": "no gradient sums in this log",
            "remedy": "record sums with Recorder(gradient_types=…) or Recorder(gradient_sketch=…)",
        }


def _tables(detection: Detection) -> Iterator[Missing]:
    if not len(detection.run.log.vocab):
        yield {
            "what": "the texts of tokens, and what they are for",
            "why": "the log has no vocab.parquet",
            "remedy": "write one (token_id, token, bytes), or record with the tokenizer at hand",
        }
    if not detection.source.prompts.known:
        yield {
            "what": "which sequences share a prompt",
            "why": "the log has no sequences/; each sequence counts as its own prompt, and "
            "intervals may be too narrow",
            "remedy": "write sequences/ (sequence_id, step, num_tokens, prompt_id)",
        }
