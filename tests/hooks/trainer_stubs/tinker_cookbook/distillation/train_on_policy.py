"""Stand-in for tinker-cookbook 0.6.1's on-policy distillation: its two functions and a loop."""

from __future__ import annotations

import asyncio
from typing import Any


async def incorporate_kl_penalty(
    data_D: Any,
    teacher_clients_D: Any,
    dataset_indices_D: Any,
    kl_penalty_coef: float,
    kl_discount_factor: float,
) -> dict[str, float]:
    answers = await asyncio.gather(
        *[
            client.compute_logprobs(
                [*datum.model_input.to_ints(), datum.loss_fn_inputs["target_tokens"].data[-1]]
            ).coroutine()
            for datum, client in zip(data_D, teacher_clients_D, strict=True)
        ]
    )
    total = count = 0.0
    for datum, answer in zip(data_D, answers, strict=True):
        given = {name: each.data for name, each in datum.loss_fn_inputs.items()}
        rows = zip(given["logprobs"], answer[1:], given["mask"], strict=True)
        penalty = [(p - q) * m for p, q, m in rows]
        datum.loss_fn_inputs["advantages"].data = [-kl_penalty_coef * each for each in penalty]
        total, count = total + sum(penalty), count + sum(given["mask"])
    return {"teacher_kl": total / count}


async def do_train_step_and_get_sampling_client(
    config: Any,
    i_batch: int,
    training_client: Any,
    checkpoint_mgr: Any,
    service_client: Any,
    tokenizer: Any,
    env_group_builders_P: Any,
    trajectory_groups_P: Any,
    dataset_indices_P: Any,
    teacher_clients: Any,
    store: Any = None,
) -> Any:
    clients = [teacher_clients[index] for index in dataset_indices_P]
    return await incorporate_kl_penalty(
        trajectory_groups_P, clients, dataset_indices_P, config.kl_penalty_coef, 0.0
    )


async def main(config: Any, batches: Any, tokenizer: Any, teachers: Any, start: int = 0) -> Any:
    return [
        await do_train_step_and_get_sampling_client(
            config, i, None, None, None, tokenizer, None, data, indices, teachers
        )
        for i, (data, indices) in enumerate(batches, start)
    ]
