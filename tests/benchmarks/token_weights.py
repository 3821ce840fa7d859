"""What frozen tokens save in TRL's loss: its time with weight 0 on a share of the tokens.

`python tests/benchmarks/token_weights.py [--rounds 5] [--tokens 128] [--hidden 64]` computes the
loss of a batch and its gradient with a vocabulary of 151,936, with no weights and with 30% and 60%
of the tokens frozen, in turns, on one thread, and prints processor time as ratios to that without
weights: medians over the rounds, and the smallest and largest.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from trl.trainer import distillation_trainer

from rocktok.hooks.trl.weighted_loss import weighted_divergence

VOCABULARY = 151_936
FROZEN = (0.3, 0.6)


def seconds(call: Any, learned: list[torch.Tensor]) -> float:
    """Processor time of a loss and its gradient."""
    for tensor in learned:
        tensor.grad = None
    began = time.process_time()
    call()[0].backward()
    return time.process_time() - began


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens, hidden = args.tokens, args.hidden
    student = torch.randn(1, tokens, hidden, requires_grad=True)
    head = torch.nn.Parameter(torch.randn(VOCABULARY, hidden) / hidden**0.5)
    arguments: dict[str, Any] = {
        "student_hidden_states": student,
        "teacher_hidden_states": torch.randn(1, tokens, hidden),
        "student_lm_head_weight": head,
        "teacher_lm_head_weight": torch.randn(VOCABULARY, hidden) / hidden**0.5,
        "completion_mask": torch.ones(1, tokens),
        "beta": 1.0,
    }
    original = distillation_trainer._chunked_divergence_loss
    order = torch.randperm(tokens)
    calls: dict[str, Any] = {"without weights": lambda: original(**arguments)}
    for share in FROZEN:
        selected = torch.zeros(1, tokens, dtype=torch.bool)
        selected[0, order[: round(share * tokens)]] = True
        for weight in (0.0, 0.5):
            calls[f"weight {weight:g} on {share:.0%}"] = lambda s=selected, w=weight: (
                weighted_divergence(original, arguments, s, w)
            )
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(args.rounds + 1):
        for name, call in calls.items():
            spent = seconds(call, [student, head])
            # The first round warms up.
            if number:
                found[name].append(spent)
    base = np.array(found["without weights"])
    print(f"{tokens} tokens, hidden size {hidden}, vocabulary {VOCABULARY:,}, one thread:")
    for name, times in found.items():
        ratios = np.array(times) / base
        print(
            f"{name:<22}{np.median(times):7.2f} s  {np.median(ratios):.2f} "
            f"({ratios.min():.2f} to {ratios.max():.2f})"
        )


if __name__ == "__main__":
    main()
