"""What the log says of verl's actor: its model, its loss, how it samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rocktok.hooks.calls import version_of
from rocktok.hooks.terminals import special_ids, terminal_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIZES = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


def describe_run(
    engine: Any, loss: Mapping[str, Any], exactness: str, temperature: Any
) -> dict[str, Any]:
    """What run.json says.

    Args:
        engine: the actor's.
        loss: the keywords of its loss function: `config`, `distillation_config`.
        exactness: how losses are computed.
        temperature: of the student; a tensor where each text has its own.
    """
    distillation = loss["distillation_config"]
    config = distillation.distillation_loss
    tokenizer, model = tokenizer_of(engine), engine.model_config
    teachers = [str(each.model_path) for each in distillation.teacher_models.values()]
    own = isinstance(temperature, (int, float))
    facts: dict[str, Any] = {
        "student": str(getattr(model, "path", None) or "student"),
        "teacher": ", ".join(teachers) or "teacher",
        "vocab_size": _text_config(engine).vocab_size,
        "loss": {
            "divergence": "reverse_kl",
            "trained": config.loss_mode in ("kl", "k1"),
            "exactness": exactness,
            **({"student_temperature": float(temperature)} if own else {}),
            # Served teachers answer with the log-probabilities of their own logits.
            "teacher_temperature": 1.0,
        },
        "sampling": {"temperature": float(temperature) if own else None},
        "extra": {
            "trainer": "verl",
            "verl": version_of("verl").rpartition(" ")[2],
            "strategy": str(getattr(loss["config"], "strategy", "")),
            "loss_mode": str(config.loss_mode),
            "topk": config.topk if exactness == "topk" else None,
        },
    }
    if tokenizer is not None:
        declared = getattr(_text_config(engine), "eos_token_id", None)
        facts["terminal_ids"] = {"student": terminal_ids(tokenizer, declared)}
        facts["special_ids"] = special_ids(tokenizer)
    return facts


def fingerprint(engine: Any) -> dict[str, Any]:
    """The sizes of the student, which no attempt may change."""
    config = _text_config(engine)
    sizes = {f"student.{size}": getattr(config, size, None) for size in _SIZES}
    return {name: value for name, value in sizes.items() if value is not None}


def tokenizer_of(engine: Any) -> Any:
    """The student's tokenizer, if it was loaded."""
    return getattr(engine.model_config, "tokenizer", None)


def steps_taken(engine: Any) -> int:
    """Optimizer steps that a loaded checkpoint has behind it, as its optimizer counts them."""
    state = getattr(getattr(engine, "optimizer", None), "state", None) or {}
    return max((int(each["step"]) for each in state.values() if "step" in each), default=0)


def _text_config(engine: Any) -> Any:
    config = engine.model_config.hf_config
    text = getattr(config, "get_text_config", None)
    return config if text is None else text()
