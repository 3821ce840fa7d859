from __future__ import annotations

import os

# Before any library of the Hugging Face family is imported: tests never ask a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads of NumPy and PyTorch wait by spinning, which tests that run side by side pay for.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before anything imports Triton: its kernels run on the CPU, in its interpreter. (0: compiled.)
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed files that are absent are not waited for; one test puts the wait back."""
    from rocktok.log import opening

    monkeypatch.setattr(opening, "MISSING_WAIT", 0.0)
