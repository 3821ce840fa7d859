"""What enters the output heads of both models, where a trainer's loss sees logits alone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError

if TYPE_CHECKING:
    import torch


class HeadInputs:
    """Keeps the hidden states of the forward passes in a `with` block.

    Args:
        student, teacher: models of transformers, unwrapped; the same object where a model is its
            own teacher, whose first pass is then the student's.
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        self._heads = [head_of(model) for model in (student, teacher)]
        self._seen: dict[int, list[torch.Tensor]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> HeadInputs:
        for head in {id(head): head for head in self._heads}.values():
            self._stack.callback(head.register_forward_pre_hook(self._keep).remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()
        self._seen.clear()

    def student(self, columns: int) -> torch.Tensor:
        """(B, K, H) states from which the last K tokens of each row were predicted."""
        return self._of(0, columns)

    def teacher(self, columns: int) -> torch.Tensor:
        """The same of the teacher."""
        return self._of(1, columns)

    def _keep(self, head: Any, inputs: Any) -> None:
        self._seen.setdefault(id(head), []).append(inputs[0].detach())

    def _of(self, which: int, columns: int) -> torch.Tensor:
        seen = self._seen.get(id(self._heads[which]), [])
        shared = self._heads[0] is self._heads[1]
        if len(seen) != (2 if shared else 1):
            raise RuntimeError(f"a model's output head was called {len(seen)} times for a batch")
        # The state at a position predicts the next token, so that at the last predicts none.
        return seen[which if shared else 0][:, -columns - 1 : -1]


def head_of(model: Any) -> Any:
    """A model's output head. Raises `HookError` where it has none that can be watched."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise HookError(
            f"attach: {type(model).__name__} has no output head that can be watched, as "
            "head_grad_norm and contexts need; leave the column out, and use "
            "Recorder(contexts=False)"
        )
    return head
