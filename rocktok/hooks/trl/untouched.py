"""Runs models inside training so that training does not notice."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

#: DDP skips the next synchronisation of buffers after a forward pass without gradients.
_FLAG = "require_forward_param_sync"


@contextmanager
def untouched(trainer: Any) -> Iterator[None]:
    """Eval mode inside; afterwards modules' modes, random state and wrapper flags are as before.

    Random state is Python's, NumPy's, and PyTorch's on the CPU and on every CUDA device that holds
    a parameter of student or teacher. What the trainer notes of losses meanwhile is left out of its
    next report.
    """
    model = trainer.model_wrapped
    modes = [(module, module.training) for module in model.modules()]
    synchronise = getattr(model, _FLAG, None)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    models = (model, getattr(trainer, "teacher_model", None))
    parameters = [p for m in models if m is not None for p in m.parameters()]
    devices = {p.device.index or 0 for p in parameters if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(sorted(devices)), unchanged_metrics(trainer):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, training in modes:
            module.training = training
        if synchronise is not None:
            setattr(model, _FLAG, synchronise)


@contextmanager
def unchanged_metrics(trainer: Any) -> Iterator[None]:
    """Take out what a trainer notes of losses in the `with` block for its next report."""
    metrics = getattr(trainer, "_metrics", None) or {}
    before = {mode: {k: list(v) for k, v in kept.items()} for mode, kept in metrics.items()}
    try:
        yield
    finally:
        for mode, kept in metrics.items():
            kept.clear()
            kept.update(before.get(mode, {}))
