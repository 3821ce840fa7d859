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
    a parameter of student or teacher.
    """
    model = trainer.model_wrapped
    modes = [(module, module.training) for module in model.modules()]
    synchronise = getattr(model, _FLAG, None)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    parameters = [p for m in (model, trainer.teacher_model) for p in m.parameters()]
    devices = {p.device.index or 0 for p in parameters if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(sorted(devices)):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, training in modes:
            module.training = training
        if synchronise is not None:
            setattr(model, _FLAG, synchronise)
