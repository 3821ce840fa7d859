from __future__ import annotations

from typing import Any


class BaseEngine:
    def train_batch(self, data: Any, loss_function: Any) -> Any:
        outputs = self.forward_backward_batch(data, loss_function)
        self.steps_taken += 1
        return outputs

    def forward_backward_batch(self, data: Any, loss_function: Any) -> Any:
        raise NotImplementedError

    def is_mp_src_rank_with_outputs(self) -> bool:
        return True

    def get_data_parallel_rank(self) -> int:
        return 0

    def get_data_parallel_size(self) -> int:
        return 1

    def get_data_parallel_group(self) -> Any:
        return None
