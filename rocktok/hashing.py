"""Seeded hashes: the same draw for the same row, however the log is cut or the work is shared.

They also cut prompts into halves, and sketch vectors over the vocabulary. All are plain NumPy on
uint64, so that what was recorded in a training process can be followed anywhere.

Shape suffixes: N rows, V vocabulary, R tables of a sketch, D dimensions of a sketch.
"""

from __future__ import annotations

import hashlib

import numpy as np

from rocktok._types import Array

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(x_N: Array) -> Array:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), elementwise on uint64."""
    with np.errstate(over="ignore"):
        x_N = (x_N ^ (x_N >> np.uint64(30))) * _FIRST
        x_N = (x_N ^ (x_N >> np.uint64(27))) * _SECOND
    mixed: Array = x_N ^ (x_N >> np.uint64(31))
    return mixed


def hash_rows(seed: int, *keys_N: Array) -> Array:
    """64-bit hashes of (seed, key, key, …), one per row; keys are integer arrays."""
    with np.errstate(over="ignore"):
        hashed = mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64) + _GOLDEN)
        for key_N in keys_N:
            unsigned = np.asarray(key_N)
            if unsigned.dtype != np.uint64:
                unsigned = unsigned.astype(np.int64).view(np.uint64)
            hashed = mix(hashed + _GOLDEN * (unsigned + np.uint64(1)))
    return hashed


def prompt_hash(prompt_id: str) -> int:
    """64 bits of a prompt's identity: BLAKE2b, 8 bytes long, of its UTF-8, little-endian."""
    return int.from_bytes(hashlib.blake2b(prompt_id.encode(), digest_size=8).digest(), "little")


def halves(prompt_N: Array, seed: int) -> Array:
    """Which half, 0 or 1 (int32), each prompt is in; `prompt_N` are their hashes (uint64).

    The top bit of hash(seed, prompt): whoever scores a prompt puts it into the same half, and all
    sequences of a prompt are in one.
    """
    half_N: Array = (hash_rows(seed, np.asarray(prompt_N, np.uint64)) >> np.uint64(63)).astype(
        np.int32
    )
    return half_N


#: Independent tables of a sketch: their spread is what tells how far off it is.
SKETCH_TABLES = 8
#: Fewest dimensions of a sketch: tables narrower than this collide all the time.
SKETCH_LEAST = 256


def sketch_widths(dims: int) -> list[int]:
    """Widths of the tables, which sum to `dims`.

    All differ, so that two tokens that share a bucket of one table seldom share one of another.
    """
    least = (dims - SKETCH_TABLES * (SKETCH_TABLES - 1) // 2) // SKETCH_TABLES
    widths = [least + table for table in range(SKETCH_TABLES)]
    widths[-1] += dims - sum(widths)
    return widths


def sketch_order(vocabulary: int, seed: int) -> Array:
    """(V,) int64, the token ids in ascending order of hash(seed, id): a seeded shuffle."""
    return np.argsort(hash_rows(seed, np.arange(vocabulary)), kind="stable")


def sketch_signs(vocabulary: int, seed: int) -> Array:
    """(R, V) int8, the sign of each token in each table: bit r of hash(seed, id, 1) makes it -1."""
    bits_V = hash_rows(seed, np.arange(vocabulary), np.ones(vocabulary, np.int64))
    table_R1 = np.arange(SKETCH_TABLES, dtype=np.uint64)[:, None]
    signs_RV: Array = 1 - 2 * ((bits_V >> table_R1) & np.uint64(1)).astype(np.int8)
    return signs_RV


def sketch(vectors_NV: Array, dims: int, seed: int) -> Array:
    """(N, D) signed hash sketches of vectors over the vocabulary, float64.

    In table r the token at place i of `sketch_order` is added, with its sign, to bucket
    i mod width_r; the tables stand one after another. A sketch is linear: that of a sum is the
    sum of the sketches. The inner product of two vectors is, in expectation over the seed, the
    mean over the tables of the inner products of their parts.

    Source: count sketch (Charikar, Chen and Farach-Colton 2002; as feature hashing, Weinberger et
    al. 2009), with equally filled buckets; several tables, for the error's sake, are ours.

    >>> sketch(np.eye(3, 1000), 256, seed=0).shape
    (3, 256)
    """
    vectors_NV = np.asarray(vectors_NV, dtype=np.float64)
    vocabulary = vectors_NV.shape[1]
    order_V, signs_RV = sketch_order(vocabulary, seed), sketch_signs(vocabulary, seed)
    parts = []
    for table, width in enumerate(sketch_widths(dims)):
        signed_NV = (vectors_NV * signs_RV[table])[:, order_V]
        rows = -(-vocabulary // width)
        padded_NV = np.zeros((len(signed_NV), rows * width))
        padded_NV[:, :vocabulary] = signed_NV
        parts.append(padded_NV.reshape(-1, rows, width).sum(axis=1))
    return np.concatenate(parts, axis=1)
