"""What a recorder is asked for, held against what its trainer can give, before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rocktok.errors import HookError
from rocktok.hooks.notices import say

if TYPE_CHECKING:
    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.trl.family import Family


def fit_recorder(family: Family, recorder: Recorder) -> None:
    """Leave out what nobody asked for by name and cannot be had, and say so.

    Raises `HookError` where it was asked for by name.
    """
    refuse_zero_3(family)
    _fit_columns(family, recorder)
    _fit_kept_text(family, recorder)


def refuse_zero_3(family: Family) -> None:
    """Raise `HookError` where DeepSpeed ZeRO-3 has sharded an output head that is read.

    Its parameters are known by their `ds_id`. Whether the student's are is certain only when
    training has begun.
    """
    if not family.reads_heads:
        return
    for name, model in (("student", family.student), ("teacher", family.teacher)):
        head = None if model is None else model.get_output_embeddings()
        if any(
            hasattr(parameter, "ds_id") for parameter in getattr(head, "_parameters", {}).values()
        ):
            raise HookError(
                f"attach: the {name}'s output head is sharded by DeepSpeed ZeRO-3, so that a "
                "process holds a part of it, or nothing; use ZeRO-2 or FSDP2"
            )


def _fit_columns(family: Family, recorder: Recorder) -> None:
    if family.columns is None:
        return
    # They are made of the teacher's whole distribution, or of its hidden states.
    recorder.alternatives, recorder.contexts = 0, False
    if recorder.gradients is not None:
        raise HookError(
            f"attach: gradients cannot be summed: {family.why_inexact()}; leave out gradient_types "
            "and gradient_sketch"
        )
    absent = [name for name in recorder.columns if name not in family.columns]
    if not absent:
        return
    why = f"{family.name} has losses that are {family.exactness!r}: {family.why_inexact()}"
    if not recorder.columns_by_preset:
        raise HookError(
            f"attach: columns {', '.join(absent)} cannot be recorded. {why}; choose from "
            f"{', '.join(sorted(family.columns))}"
        )
    recorder.columns = tuple(name for name in recorder.columns if name in family.columns)
    _tell(family, recorder, f"without the columns {', '.join(absent)}. {why}")


def _fit_kept_text(family: Family, recorder: Recorder) -> None:
    if not recorder.fixed_sequences:
        return
    why_not = family.why_no_kept_text()
    if why_not is not None:
        if recorder.fixed_at_start or recorder.gradients or recorder.live_weights:
            raise HookError(
                f"attach: kept text cannot be scored: {why_not}; leave out fixed_at_start, "
                "gradient_types, gradient_sketch and live_weights"
            )
        recorder.fixed_sequences = 0
        _tell(
            family,
            recorder,
            f"without kept text: {why_not}. Persistence needs it: score the log's texts with "
            "saved checkpoints (rocktok rescore)",
        )
        return
    why_later = family.why_not_at_start() if recorder.fixed_at_start else None
    if why_later is not None:
        raise HookError(
            f"attach: kept text cannot be generated before training: {why_later}; leave out "
            "fixed_at_start=True"
        )


def _tell(family: Family, recorder: Recorder, line: str) -> None:
    if family.trainer.accelerator.process_index == 0 and not recorder.quiet:
        say(f"recording into {recorder.log_dir} {line}")
