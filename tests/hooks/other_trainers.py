"""What the tests of the hooks for other trainers share: stand-ins, models, tokenizers, logs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rocktok

STUBS = Path(__file__).parent / "trainer_stubs"
#: Tokens of the tokenizer; students are as wide, teachers may be wider.
TOKENS, END = 40, 1


def use_stubs(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have stand-ins for trainers imported afresh, and forgotten after the test."""
    monkeypatch.syspath_prepend(str(STUBS))
    forget(*names)


def forget(*names: str) -> None:
    for module in list(sys.modules):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            del sys.modules[module]


class Tokenizer:
    """As little of a tokenizer as the hooks look at."""

    eos_token_id = END
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012
    all_special_ids = [0, END]  # noqa: RUF012
    all_special_tokens = ["<pad>", "<end>"]  # noqa: RUF012
    backend_tokenizer = None

    def get_vocab(self) -> dict[str, int]:
        return {f"t{i}": i for i in range(TOKENS)}


class Model(torch.nn.Module):
    """Reads the token before, as its logits tell: a table and a head."""

    def __init__(self, seed: int, width: int = TOKENS, hidden: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(torch.randn(64, hidden, generator=generator))
        self.head = torch.nn.Linear(hidden, width, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(width, hidden, generator=generator))
        self.tokenizer = Tokenizer()
        text = type("Config", (), {"vocab_size": width, "hidden_size": hidden})()
        self.config = type("Config", (), {"get_text_config": lambda self: text})()

    def hidden(self, ids: Any) -> Any:
        # The place counts, too, so that a shift by one shows.
        places = torch.arange(ids.shape[-1]) % 5
        return self.table[ids] + self.table[places + 50]

    def forward(self, ids: Any) -> Any:
        return self.head(self.hidden(ids))

    def get_output_embeddings(self) -> Any:
        return self.head


def read(log: Path, table: str = "rollout", columns: tuple[str, ...] = ()) -> dict[str, Any]:
    """All rows in the order (step, sequence_id, position)."""
    batches = list(rocktok.open(log).scan(table, ["token_id", "loss", *columns]))
    rows = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    order = np.lexsort((rows["position"], rows["sequence_id"], rows["step"]))
    return {name: values[order] for name, values in rows.items()}


def run_of(log: Path) -> dict[str, Any]:
    return dict(json.loads((log / "run.json").read_text()))


def mismatches(log: Path) -> dict[str, int]:
    """Calls by step whose recorded losses were not the trainer's, over all ranks and attempts."""
    found: dict[str, int] = {}
    for path in (log / "manifest").glob("*.json"):
        found |= json.loads(path.read_text())["mismatches"]
    return found


def sequences(log: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    shards = sorted((log / "sequences").glob("*.parquet"))
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    return sorted(rows, key=lambda row: row["sequence_id"])


def log_softmax(logits: Any) -> Any:
    z = np.asarray(logits, np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def reverse_kl(student: Any, teacher: Any) -> Any:
    log_p, log_q = log_softmax(student), log_softmax(teacher)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)
