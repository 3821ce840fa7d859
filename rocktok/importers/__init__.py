"""Files of other trainers and of inference servers, made into logs.

One module a kind. This file is the only list of them: `rocktok import`, its help and its checks
follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

#: Options that every kind with a log takes.
_MODELS = frozenset({"student", "teacher", "vocab_size", "tokenizer"})
#: Options of kinds whose files hold text without token ids.
_TEXTS = frozenset({"tokenizer", "append_eos", "max_completion_length"})


@dataclass(frozen=True)
class Kind:
    """Files of one origin.

    Attributes:
        name: as the user gives it.
        help: what files these are, in one line.
        module: where they are read. It has `PATTERNS`, names of its files in a folder, and
            `read(files, options)`, which gives a `Source`, or, where the files hold no losses,
            `texts(files, options)`, which gives a `TextSource`.
        options: names of the options that have a meaning.
        has_losses: whether the output is a log. Else it is a file of sequences for `rescore`.
    """

    name: str
    help: str
    module: str
    options: frozenset[str] = _MODELS
    has_losses: bool = True

    def load(self) -> Any:
        """Import the module."""
        return import_module(f"rocktok.importers.{self.module}")


KINDS = (
    Kind("table", "CSV, Parquet or JSON Lines, one row per token.", "table",
         _MODELS | {"columns", "exactness", "steps", "table"}),
    Kind("rock-token", "The .pt files of the paper's own scripts.", "rock_token",
         _MODELS | {"steps", "exactness"}),
    Kind("slime", "slime's rollout and train dumps (--dump-details).", "slime"),
    Kind("nemo-rl", "NeMo-RL's token statistics, top-k statistics and train_data files.",
         "nemo_rl", _MODELS | {"min_teacher_logprob"}),
    Kind("nemo-rl-inputs", "NeMo-RL's offline inputs: sequences for rescore.", "nemo_inputs",
         frozenset(), has_losses=False),
    Kind("vllm", "Saved vLLM responses with prompt_logprobs.", "vllm",
         _MODELS | {"teacher_files", "steps", "table"}),
    Kind("sglang", "Saved SGLang responses with input_token_logprobs.", "sglang",
         _MODELS | {"teacher_files", "steps", "table"}),
    Kind("openai", "Saved OpenAI-style completions with log-probabilities and token ids.",
         "openai", _MODELS | {"teacher_files", "steps", "table"}),
    Kind("prime-rl", "prime-rl's token exports: sequences for rescore.", "prime_rl",
         frozenset(), has_losses=False),
    Kind("verl", "verl's rollout_data_dir: text, for rescore.", "verl", _TEXTS, has_losses=False),
    Kind("trl", "TRL's completions/*.parquet: text, for rescore.", "trl", _TEXTS,
         has_losses=False),
    Kind("ms-swift", "ms-swift's completions.jsonl: text, for rescore.", "ms_swift", _TEXTS,
         has_losses=False),
)  # fmt: skip


def kinds() -> dict[str, Kind]:
    """Name → kind, in order."""
    return {kind.name: kind for kind in KINDS}
