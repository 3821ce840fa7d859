"""What the log says of a trainer: its models, its loss, how it samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocktok.hooks.contexts import describe_contexts
from rocktok.hooks.terminals import special_ids, terminal_ids
from rocktok.hooks.trl.agreement import tokenizer_facts

if TYPE_CHECKING:
    from rocktok.hooks.trl.family import Family

#: What tells one architecture from another, by its name in the configurations of transformers.
_SIZES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "vocab_size",
)
#: A model on the Hub: its owner and its name.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
#: How a trainer samples.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
#: A directory without any has no tokenizer: transformers would make one up, of special tokens.
_TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")


def describe_run(family: Family) -> dict[str, Any]:
    """What run.json says of a trainer."""
    import transformers
    import trl

    trainer = family.trainer
    student, teacher = family.student, family.teacher
    theirs = teacher_tokenizer(teacher)
    output = Path(trainer.args.output_dir).name
    temperature = family.loss_temperature
    contexts = {} if teacher is None else {"contexts": describe_contexts(_hidden_size(teacher))}
    return {
        "student": _path(student) or output,
        "teacher": (teacher is not None and _path(teacher)) or f"teacher of {output}",
        "vocab_size": _width(student),
        "loss": {
            "divergence": "reverse_kl",
            "trained": family.trains_reverse_kl,
            "beta": family.beta,
            "exactness": family.exactness,
            "student_temperature": temperature,
            "teacher_temperature": temperature,
        },
        "sampling": sampling(trainer),
        "terminal_ids": {
            "student": terminal_ids(family.tokenizer, _declared(student), list(family.end_ids)),
            "teacher": terminal_ids(theirs, _declared(teacher)),
        },
        "tokenizers": tokenizer_facts(
            family.tokenizer, theirs, _width(student), None if teacher is None else _width(teacher)
        ),
        "special_ids": special_ids(family.tokenizer),
        "max_completion_length": _longest(trainer),
        **contexts,
        "extra": {
            "trainer": f"trl.{family.name}",
            "trl": trl.__version__,
            "transformers": transformers.__version__,
            **family.about(),
        },
    }


def sampling(trainer: Any) -> dict[str, Any]:
    """How a trainer samples, as far as it says so, itself or in its arguments."""
    said: dict[str, Any] = {}
    for key in _SAMPLING:
        if hasattr(trainer, key) or hasattr(trainer.args, key):
            said[key] = getattr(trainer, key, getattr(trainer.args, key, None))
    more = getattr(trainer.args, "generation_kwargs", None) or {}
    return {key: _plain(value) for key, value in {**said, **more}.items()}


def _longest(trainer: Any) -> int | None:
    """Tokens at which a completion is cut."""
    found = getattr(trainer.args, "max_completion_length", None)
    return found if found is not None else getattr(trainer.args, "max_new_tokens", None)


def teacher_tokenizer(teacher: Any | None) -> Any | None:
    """The teacher's own tokenizer, where the directory or cache of the model's files has one.

    Nothing is fetched, and no code of a model is run.
    """
    from transformers import AutoTokenizer

    folder = None if teacher is None else _folder(_path(teacher))
    if folder is None or not any(next(folder.glob(name), None) for name in _TOKENIZERS):
        return None
    # What goes wrong in there has no common base.
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception:
        return None


def _folder(name: str) -> Path | None:
    """Where the files of a model are, by what it was loaded from: a directory, or a Hub name."""
    from huggingface_hub import try_to_load_from_cache

    if name and Path(name).is_dir():
        return Path(name)
    if not _HUB_NAME.fullmatch(name):
        return None
    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def fingerprint(family: Family) -> dict[str, Any]:
    """The sizes of both models, which no attempt may change; paths of checkpoints may."""
    found: dict[str, Any] = {}
    for name, model in (("student", family.student), ("teacher", family.teacher)):
        if model is None:
            continue
        config = model.config.get_text_config()
        sizes = {size: getattr(config, size, None) for size in _SIZES}
        found |= {f"{name}.{size}": _plain(v) for size, v in sizes.items() if v is not None}
    return found


def _declared(model: Any) -> Any:
    """The ids that end what a model generates, as its generation configuration says."""
    return getattr(getattr(model, "generation_config", None), "eos_token_id", None)


def _width(model: Any) -> int:
    """Width of a model's logits."""
    return int(model.config.get_text_config().vocab_size)


def _hidden_size(model: Any) -> int | None:
    size = getattr(model.config.get_text_config(), "hidden_size", None)
    return size if isinstance(size, int) else None


def _path(model: Any) -> str:
    return str(getattr(model.config, "_name_or_path", "") or "")


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)
