"""What the log says of a trainer of ms-swift: its models, its loss, how it samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rocktok.hooks.calls import version_of
from rocktok.hooks.terminals import special_ids, terminal_ids

#: What tells one architecture from another, by its name in the configurations of transformers.
_SIZES = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


def describe_run(trainer: Any, exactness: str) -> dict[str, Any]:
    """What run.json says of a trainer."""
    import transformers

    student, teacher = _models(trainer)
    args, tokenizer = trainer.args, tokenizer_of(trainer)
    widths = {"student": width_of(student), "teacher": width_of(teacher) if teacher else None}
    declared = getattr(getattr(student, "generation_config", None), "eos_token_id", None)
    output = Path(args.output_dir).name
    whole = exactness == "exact" and trainer.gkd_logits_topk is None
    return {
        "student": _path(student) or output,
        "teacher": _path(teacher) if teacher else f"teacher of {output}",
        "vocab_size": max(width for width in widths.values() if width),
        "loss": {
            "divergence": "reverse_kl",
            "trained": trainer.beta == 1 and (whole or exactness == "truncated"),
            "beta": float(trainer.beta),
            "exactness": exactness,
            "student_temperature": float(trainer.temperature),
            "teacher_temperature": float(trainer.temperature),
        },
        "sampling": {name: getattr(args, name, None) for name in ("temperature", "top_p", "top_k")},
        "terminal_ids": {"student": terminal_ids(tokenizer, declared)},
        "tokenizers": {
            "teacher_tokenizer": "absent",
            "vocab_width": widths,
            "tokens_differ": None,
            "special_differ": None,
        },
        "special_ids": special_ids(tokenizer),
        "max_completion_length": getattr(args, "max_completion_length", None),
        "extra": {
            "trainer": f"ms-swift {type(trainer).__name__}",
            "ms-swift": version_of("ms-swift").rpartition(" ")[2],
            "transformers": transformers.__version__,
            "lmbda": float(trainer.lmbda),
            "gkd_logits_topk": trainer.gkd_logits_topk,
            "liger": bool(trainer.use_liger_gkd_loss),
        },
    }


def fingerprint(trainer: Any) -> dict[str, Any]:
    """The sizes of both models, which no attempt may change; paths of checkpoints may."""
    found: dict[str, Any] = {}
    for name, model in zip(("student", "teacher"), _models(trainer), strict=True):
        if model is not None:
            config = model.config.get_text_config()
            sizes = {f"{name}.{size}": getattr(config, size, None) for size in _SIZES}
            found |= {key: value for key, value in sizes.items() if value is not None}
    return found


def tokenizer_of(trainer: Any) -> Any:
    """The student's tokenizer."""
    return trainer.template.tokenizer


def width_of(model: Any) -> int:
    """Width of a model's logits."""
    head = model.get_output_embeddings()
    rows = getattr(head, "out_features", None)
    return int(rows or model.config.get_text_config().vocab_size)


def _models(trainer: Any) -> tuple[Any, Any | None]:
    """Student and teacher; without a teacher of its own at hand, the second is None."""
    unwrap = trainer.accelerator.unwrap_model
    teacher = trainer.teacher_model
    return unwrap(trainer.model), None if teacher is None else unwrap(teacher)


def _path(model: Any) -> str:
    return str(getattr(model.config, "_name_or_path", "") or "")
