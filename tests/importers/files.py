"""Files as other trainers write them, made by writers of our own from the documented layouts.

No trainer was run: the layouts are those of the sources named in docs/import.md.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Malicious:
    """Pickled, it is a call that makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def authors_records(n: int, seed: int = 0, types: int = 400) -> list[dict[str, Any]]:
    """Occurrences as `rock_server.py` lists them: Zipf-like types, heavy-tailed losses."""
    rng = np.random.default_rng(seed)
    token = (rng.random(n) ** 3 * types).astype(int).tolist()
    kl = rng.exponential(0.5, n).astype(np.float32).tolist()
    length = 40
    return [
        {
            "sample_idx": i // length, "token_id": token[i], "kl": kl[i],
            "abs_position": i % length, "rel_position": (i % length) / (length - 1),
            "line_index": 0, "position_in_line": i % length, "is_line_start": i % length == 0,
            "is_newline": False, "seq_len": length,
        }
        for i in range(n)
    ]  # fmt: skip


def authors_file(path: Path, records: list[Any], **changes: Any) -> Path:
    """A `rock_token_occurrences_*.pt`."""
    size = 500
    good = [r for r in records if isinstance(r, dict) and isinstance(r.get("token_id"), int)]
    token = torch.tensor([r["token_id"] for r in good if 0 <= r["token_id"] < size])
    counts = torch.bincount(token, minlength=size)
    content = {
        "student_id": "student", "student_key": "onpolicy", "teacher_id": "teacher",
        "samples_processed": 10, "vocab_size": size, "token_ids": torch.arange(size),
        "frequencies": counts, "cumulative_kl": torch.zeros(size, dtype=torch.float64),
        "average_kl": torch.zeros(size, dtype=torch.float64), "occurrences": records,
    }  # fmt: skip
    torch.save({**content, **changes}, path)
    return path


def slime_sample(rng: np.random.Generator, prompt: list[int], length: int) -> dict[str, Any]:
    student, teacher = -rng.exponential(1, length), -rng.exponential(1, length)
    return {
        "group_index": 0, "index": 0, "prompt": "p", "response": "r", "label": None,
        "tokens": [*prompt, *rng.integers(0, 90, length).tolist()], "response_length": length,
        "rollout_log_probs": student.tolist(), "teacher_log_probs": teacher.tolist(),
        "loss_mask": [1] * length, "reward": 1.0, "status": "completed", "metadata": {},
        "weight_versions": [],
    }  # fmt: skip


def slime_rollout(path: Path, number: int, samples: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"rollout_id": number, "samples": samples}, path)
    return path


def slime_train(path: Path, number: int, samples: list[dict[str, Any]], shift: float) -> Path:
    """The train dump of a rollout dump's samples: the trainer's log-probabilities are shifted."""
    trained = [
        {
            "data_parallel_rank": 0, "rollout_position": place,
            "tokens": torch.tensor(sample["tokens"]),
            "response_lengths": sample["response_length"],
            "total_lengths": len(sample["tokens"]),
            "loss_masks": torch.tensor(sample["loss_mask"], dtype=torch.int32),
            "log_probs": torch.tensor(sample["rollout_log_probs"]) - shift,
            "rollout_log_probs": torch.tensor(sample["rollout_log_probs"]),
            "teacher_log_probs": torch.tensor(sample["teacher_log_probs"]),
            "entropy": torch.full((sample["response_length"],), 0.5),
        }
        for place, sample in enumerate(samples)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"format_version": 2, "rollout_id": number, "rank": 0,
                "samples": trained, "dp_shards": []}, path)  # fmt: skip
    return path


def slime_ranks(
    folder: Path, number: int, samples: list[dict[str, Any]], shift: float, ranks: int = 2
) -> list[Path]:
    """Train dumps as before August 2026: a file for each rank, with every `ranks`-th sample."""
    files = []
    for rank in range(ranks):
        own = range(rank, len(samples), ranks)
        columns = {
            "tokens": [torch.tensor(samples[i]["tokens"]) for i in own],
            "response_lengths": [samples[i]["response_length"] for i in own],
            "total_lengths": [len(samples[i]["tokens"]) for i in own],
            "loss_masks": [torch.tensor(samples[i]["loss_mask"], dtype=torch.int32) for i in own],
            "log_probs": [torch.tensor(samples[i]["rollout_log_probs"]) - shift for i in own],
            "teacher_log_probs": [torch.tensor(samples[i]["teacher_log_probs"]) for i in own],
            "sample_indices": [samples[i]["index"] for i in own],
            "rewards": [0.0 for _ in own],
            "local_raw_reward": [samples[i]["reward"] for i in own],
            "raw_reward": [sample["reward"] for sample in samples],
            "truncated": [0 for _ in own],
            "micro_batch_indices": [[0]], "num_microbatches": [1], "global_batch_sizes": [4],
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"{number}_{rank}.pt")
        torch.save({"rollout_id": number, "rank": rank, "rollout_data": columns}, files[-1])
    return files


def changed_columns(path: Path, **changes: Any) -> None:
    """Replace columns of a rank's train dump; None removes one."""
    content = torch.load(path, weights_only=True)
    columns = content["rollout_data"] | changes
    content["rollout_data"] = {k: v for k, v in columns.items() if v is not None}
    torch.save(content, path)


def distributions(n: int, size: int, seed: int, spread: float = 2.0) -> tuple[Any, Any]:
    """(N, V) log-probabilities of a student and a teacher that resemble each other."""
    rng = np.random.default_rng(seed)
    base_NV = rng.normal(0, spread, (n, size))
    both = base_NV, base_NV + rng.normal(0, 1, (n, size))
    return tuple(z - np.logaddexp.reduce(z, axis=1, keepdims=True) for z in both)  # type: ignore[return-value]


def likeliest(logprob_NV: Any, k: int) -> tuple[Any, Any]:
    ids_NK = np.argsort(-logprob_NV, axis=1)[:, :k]
    return ids_NK, np.take_along_axis(logprob_NV, ids_NK, 1)


def nemo_files(folder: Path, step: int, *, k: int = 8, seed: int = 0, top_k: bool = True) -> Any:
    """Token statistics of a step, and top-k statistics of the same tokens; returns what is true.

    `step` is as NeMo-RL counts: from 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, step])
    samples, length, prompt, size = 4, 6, 3, 60
    n = samples * length
    logp_NV, logq_NV = distributions(n, size, seed + step)
    token_N = np.array([rng.choice(size, p=np.exp(row)) for row in logp_NV])
    student_N, teacher_N = (z[np.arange(n), token_N] for z in (logp_NV, logq_NV))
    sample_N = np.repeat(np.arange(samples), length)
    place_N = prompt + np.tile(np.arange(length), samples)
    common = {
        "step": step, "num_generations_per_prompt": 2, "sample_index": torch.arange(samples),
        "reward": torch.tensor([1.0, 0.0, 1.0, 0.0]), "sample_loss_mask": torch.ones(samples),
        "input_length": torch.full((samples,), prompt + length),
        "num_response_tokens": torch.full((samples,), length),
        "token_sample_index": torch.tensor(sample_N, dtype=torch.int32),
        "token_sequence_position": torch.tensor(place_N, dtype=torch.int32),
        "token_response_position": torch.tensor(place_N - prompt, dtype=torch.int32),
        "token_ids": torch.tensor(token_N),
        "prompt_group_index": torch.arange(samples) // 2,
        "generation_index": torch.arange(samples) % 2,
        "task_name": ["math"] * samples,
    }  # fmt: skip
    tokens = {
        **common, "format_version": 1,
        "student_prev_logprobs": torch.tensor(student_N, dtype=torch.float32),
        "teacher_logprobs": torch.tensor(teacher_N, dtype=torch.float32),
        "generation_logprobs": torch.tensor(student_N, dtype=torch.float32),
        "student_entropy_approx": torch.tensor(-student_N), "teacher_entropy_approx":
        torch.tensor(-teacher_N),
    }  # fmt: skip
    torch.save(tokens, folder / f"opd_token_stats_step{step}.pt")
    if top_k:
        content: dict[str, Any] = {**common, "format_version": 2, "k": k,
                                   "topk_tokens_subsampled": False}  # fmt: skip
        for who, logprob_NV in (("student", logp_NV), ("teacher", logq_NV)):
            ids_NK, values_NK = likeliest(logprob_NV, k)
            lse_N = rng.normal(20, 1, n)
            content[f"{who}_topk_token_ids"] = torch.tensor(ids_NK, dtype=torch.int32)
            content[f"{who}_topk_logits"] = torch.tensor(values_NK + lse_N[:, None]).bfloat16()
            content[f"{who}_V_logsumexp"] = torch.tensor(lse_N, dtype=torch.float32)
        torch.save(content, folder / f"opd_topk_stats_step{step}.pt")
    return {"logp": logp_NV, "logq": logq_NV, "token": token_N, "tokens": tokens}


def texts(seed: int = 0, n: int = 3) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) ids."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 60, 3 + i).tolist(), rng.integers(0, 60, 5 + i).tolist())
        for i in range(n)
    ]  # fmt: skip


def vllm_scored(ids: list[int], logprob_TV: Any, k: int) -> list[Any]:
    """`prompt_logprobs` of a text: the realised token first, then the likeliest."""
    entries: list[Any] = [None]
    for place, token in enumerate(ids[1:], 1):
        row = logprob_TV[place]
        top = np.argsort(-row)[:k].tolist()
        order = [token, *(other for other in top if other != token)]
        rank = np.argsort(np.argsort(-row)) + 1
        entries.append({
            str(one): {"logprob": float(row[one]), "rank": int(rank[one]), "decoded_token": "x"}
            for one in order
        })  # fmt: skip
    return entries


def damage(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def pickled(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path
