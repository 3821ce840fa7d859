"""Random numbers of generation, as functions of what is drawn for: common to all arms.

A token is drawn by the Gumbel-max rule: the largest of logit/temperature + G, where G are
independent standard Gumbel variates (its law is the softmax's). G is a hash of the stream (seed,
baseline, problem, rollout), the position in the completion and the token id; so it depends neither
on the batch nor on the arm, and forbidding a token changes the draw only where that token had won.

Shape suffixes: B rows, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.hashing import hash_rows, mix, prompt_hash

if TYPE_CHECKING:
    from rocktok._types import Array

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def stream_of(seed: int, baseline: int, problem_id: str, rollout: int) -> int:
    """64 bits that name all draws of one text; `baseline`: number of the repetition, from 0."""
    problem = np.array([prompt_hash(problem_id)], dtype=np.uint64)
    hashed = hash_rows(seed, np.array([baseline]), problem, np.array([rollout]))
    return int(hashed[0])


def row_keys(stream_B: Array, position_B: Array) -> Array:
    """(B,) uint64 of (stream, position in the completion)."""
    return hash_rows(0, np.asarray(stream_B, np.uint64), np.asarray(position_B, np.int64))


def gumbel(key_B: Array, vocabulary: int) -> Array:
    """(B, V) float64 standard Gumbel variates of rows with these keys."""
    with np.errstate(over="ignore"):
        id_V = np.uint64(_GOLDEN) * (np.arange(vocabulary, dtype=np.uint64) + np.uint64(1))
        hashed_BV = mix(np.asarray(key_B, np.uint64)[:, None] + id_V)
    uniform_BV = ((hashed_BV >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    drawn: Array = -np.log(-np.log(uniform_BV))
    return drawn


def gumbel_on(key_B: Array, vocabulary: int, device: Any) -> Any:
    """`gumbel` as a tensor made on a device: the same hashes, so the same draws."""
    import torch

    keys = torch.from_numpy(np.asarray(key_B, np.uint64).view(np.int64)).to(device)
    id_V = torch.arange(1, vocabulary + 1, dtype=torch.int64, device=device) * _signed(_GOLDEN)
    x_BV = keys[:, None] + id_V
    # As `mix`: int64 wraps around, too, but its shift copies the sign.
    x_BV = (x_BV ^ _shifted(x_BV, 30)) * _signed(_FIRST)
    x_BV = (x_BV ^ _shifted(x_BV, 27)) * _signed(_SECOND)
    x_BV = x_BV ^ _shifted(x_BV, 31)
    uniform_BV = (_shifted(x_BV, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform_BV))


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


def _shifted(x: Any, bits: int) -> Any:
    return (x >> bits) & ((1 << (64 - bits)) - 1)
