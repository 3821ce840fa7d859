"""The columns of a log: names, types, units and meaning, in one place.

The Arrow schemas that the writer uses, the checks of the reader and the tables in
docs/log-format.md all come from here.

History of the schema version (written into every shard's footer and into run.json):

1  first release: rollout/, fixed/, sequences/, gradients/.
2  every JSON file carries a CRC32 of its content; manifests stand before the first shard, and vouch
   for each column chunk and for vocab.parquet; shards name their rank.
3  more statistics of an occurrence; tables alternatives/ and contexts/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = 3
#: Since this version JSON files carry a checksum, and every shard of a rank has a manifest.
SEALED_VERSION = 2

#: Footer keys of a shard.
KEY_VERSION = b"rocktok.schema_version"
KEY_RUN_ID = b"rocktok.run_id"
KEY_ATTEMPT = b"rocktok.attempt"
KEY_RANK = b"rocktok.rank"

#: Token ids are below this: sums by type are arrays over the vocabulary, and no tokenizer is near.
MAX_VOCABULARY = 1 << 22

#: Tables of occurrences: the same columns; `rollout` is each step's own text, `fixed` the same
#: text scored again.
OCCURRENCE_TABLES = ("rollout", "fixed")
#: Tables with more about the rows of `fixed`, by the same keys: what each model held likeliest at
#: each step, and, as the teacher stays what it is, its hidden state at the first step alone.
BESIDE_FIXED = ("alternatives", "contexts")
#: Tables whose steps every rank must have finished before they are complete.
STEP_TABLES = (*OCCURRENCE_TABLES, "gradients", *BESIDE_FIXED)
TABLES = (*STEP_TABLES, "sequences")

#: What a row of `gradients` sums over: one token type, all occurrences, or all occurrences, each
#: divided by the frequency of its type.
GRADIENT_KINDS = ("type", "global", "balanced")

EXACTNESS = ("exact", "topk", "truncated", "sampled")

#: How many of each model's likeliest tokens `overlap`, the masses and `teachability` are about; the
#: whole vocabulary where that has fewer.
TOP_K = 16
#: Likeliest tokens of each model that `alternatives` holds unless told.
ALTERNATIVES = 5
#: Bytes of a sketch in `contexts`: the signs of 256 projections.
CONTEXT_BYTES = 32

#: Reverse KL cannot be negative: an exact loss below this is no rounding error.
EXACT_LOSS_FLOOR = -1e-4


@dataclass(frozen=True)
class Column:
    """One column: `type` is an Arrow type name, `unit` is "–" where there is none."""

    name: str
    type: str
    unit: str
    meaning: str
    required: bool = True
    since: int = 1


OCCURRENCE_COLUMNS: tuple[Column, ...] = (
    Column("step", "int32", "optimizer steps", "steps completed by the student that was scored"),
    Column("sequence_id", "int64", "–", "identity of the text within the run"),
    Column("position", "int32", "tokens", "0-based index among all completion tokens"),
    Column("token_id", "int32", "–", "the token generated at that position (the target)"),
    Column("loss", "float32", "nats", "reverse KL of student from teacher, whole vocabulary"),
    Column("log_ratio", "float32", "nats", "log p(x) − log q(x): one-sample estimate", False),
    Column("student_logprob", "float32", "nats", "log p(x), student", False),
    Column("teacher_logprob", "float32", "nats", "log q(x), teacher", False),
    Column("student_entropy", "float32", "nats", "−Σ p log p", False),
    Column("teacher_entropy", "float32", "nats", "−Σ q log q", False),
    Column("grad_norm", "float32", "nats/logit", "‖∂loss/∂(student logits)‖₂", False),
    Column("head_grad_norm", "float32", "nats/weight", "‖∂loss/∂(output head)‖₂", False),
    Column("forward_kl", "float32", "nats", "Σ q·log(q/p)", False, 3),
    Column("jsd", "float32", "nats", "½·KL(p‖m) + ½·KL(q‖m), m = ½·(p + q)", False, 3),
    Column("overlap", "float32", "–", "|S ∩ T|/k: S, T the k = 16 likeliest of p, of q", False, 3),
    Column("student_mass", "float32", "–", "Σ p over S ∩ T", False, 3),
    Column("teacher_mass", "float32", "–", "Σ q over S ∩ T", False, 3),
    Column("teachability", "float32", "–", "Σ q over S", False, 3),
    Column("teacher_rank", "int32", "–", "rank of the token under q; 1 is the likeliest", False, 3),
    Column("student_end", "float32", "–", "Σ p over the run's terminal ids", False, 3),
    Column("teacher_end", "float32", "–", "Σ q over the run's terminal ids", False, 3),
)

ALTERNATIVES_COLUMNS: tuple[Column, ...] = (
    Column("step", "int32", "optimizer steps", "as in fixed"),
    Column("sequence_id", "int64", "–", "as in fixed"),
    Column("position", "int32", "tokens", "as in fixed"),
    Column("student_ids", "list<int32>", "–", "the student's likeliest tokens, likeliest first"),
    Column("student_probs", "list<float16>", "–", "their probabilities"),
    Column("teacher_ids", "list<int32>", "–", "the teacher's likeliest tokens, likeliest first"),
    Column("teacher_probs", "list<float16>", "–", "their probabilities"),
)

CONTEXT_COLUMNS: tuple[Column, ...] = (
    Column("step", "int32", "optimizer steps", "the first step at which the text was scored"),
    Column("sequence_id", "int64", "–", "as in fixed"),
    Column("position", "int32", "tokens", "as in fixed"),
    Column("context", "binary[32]", "–", "256-bit SimHash of the teacher's final hidden state"),
)

SEQUENCE_COLUMNS: tuple[Column, ...] = (
    Column("sequence_id", "int64", "–", "as in rollout and fixed"),
    Column("step", "int32", "optimizer steps", "when the sequence was generated"),
    Column("num_tokens", "int32", "tokens", "completion tokens, masked ones included"),
    Column("prompt_id", "string", "–", "identity of the prompt (the hooks: a hash of its ids)"),
    Column("rollout", "int32", "–", "number of this rollout of the prompt", False),
    Column("domain", "string", "–", "what kind of problem it is", False),
    Column("prompt_token_ids", "list<int32>", "–", "the prompt's token ids", False),
    Column("finish_reason", "string", "–", "stop (an end token) or length (cut)", False),
    Column("correct", "bool", "–", "whether the answer was right", False),
    Column("on_policy", "bool", "–", "whether the student wrote the text", False, 3),
)

GRADIENT_COLUMNS: tuple[Column, ...] = (
    Column("step", "int32", "optimizer steps", "as in fixed"),
    Column("half", "int32", "–", "half of the prompts, 0 or 1"),
    Column("kind", "string", "–", "what is summed: a type, global or balanced"),
    Column("token_id", "int32", "–", "the type; −1 for global and balanced"),
    Column("count", "int64", "occurrences", "occurrences in the sum"),
    Column("norm_sum", "float64", "nats/logit", "Σ ‖g‖"),
    Column("square_sum", "float64", "nats²/logit²", "Σ ‖g‖²"),
    Column("vector", "list<float32>", "nats/logit", "Σ g, or its sketch (balanced: Σ g/n)"),
    Column("vocab_size", "int32", "tokens", "width of the logits"),
    Column("sketch_dims", "int32", "–", "width of the sketch; 0: the vector itself"),
    Column("seed", "int64", "–", "seed of the halves and of the sketch"),
)

#: Positions of kept text below which little can be concluded from it.
ENOUGH_POSITIONS = 40_000

#: Columns of a scored occurrence that a log may hold, beside the required ones.
OPTIONAL_STATISTICS = tuple(c.name for c in OCCURRENCE_COLUMNS if not c.required)


def columns_of(table: str) -> tuple[Column, ...]:
    """Columns of a table, required ones first."""
    return {
        "sequences": SEQUENCE_COLUMNS,
        "gradients": GRADIENT_COLUMNS,
        "alternatives": ALTERNATIVES_COLUMNS,
        "contexts": CONTEXT_COLUMNS,
    }.get(table, OCCURRENCE_COLUMNS)


def required_names(table: str) -> tuple[str, ...]:
    """Names of the columns that every shard of the table must have."""
    return tuple(c.name for c in columns_of(table) if c.required)


def arrow_schema(table: str, optional: Iterable[str] = ()) -> Any:
    """`pyarrow.Schema` of a table with the given optional columns, in canonical order.

    Raises `ValueError` for a name that the format does not know.
    """
    import pyarrow as pa

    wanted = set(optional)
    unknown = wanted - {c.name for c in columns_of(table)}
    if unknown:
        raise ValueError(f"unknown columns for {table}: {', '.join(sorted(unknown))}")
    types = {
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "string": pa.string(),
        "bool": pa.bool_(),
        "list<int32>": pa.list_(pa.int32()),
        "list<float32>": pa.list_(pa.float32()),
        "list<float16>": pa.list_(pa.float16()),
        "binary[32]": pa.binary(CONTEXT_BYTES),
    }
    return pa.schema(
        [
            pa.field(c.name, types[c.type], nullable=not c.required)
            for c in columns_of(table)
            if c.required or c.name in wanted
        ]
    )
