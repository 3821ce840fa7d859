"""The Triton kernel that finds a model's likeliest tokens, from the largest logits of blocks.

Importing this imports Triton. Shape suffixes: N rows (scored positions), V vocabulary, B columns of
a row in work at once, D blocks of a row, K likeliest tokens.
"""

import triton
import triton.language as tl

from rocktok.hooks.statistics.fused_terms import EXCLUDED, key, logit_of, logits_of

# The key of nothing: below that of every number.
_NOTHING = tl.constexpr(-(2**31))


@triton.jit
def likeliest(
    logits,
    other_logits,
    row_N,
    other_row_N,
    highest_ND,
    id_NK,
    logit_NK,
    other_logit_NK,
    vocabulary,
    count,
    scale,
    cap,
    other_scale,
    other_cap,
    MODEL: tl.constexpr,
    OTHER: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Store the likeliest tokens of row `program_id(0)` of a model, likeliest first.

    Again and again, of the block whose largest logit not yet taken is largest (the first of those),
    it takes that token (the one of smallest id).

    Args:
        logits: raw logits of the model.
        other_logits: raw logits of the other model.
        row_N: int64, the element of `logits` with which each row begins.
        other_row_N: the same of `other_logits`.
        highest_ND: as `token_sums` stores it.
        id_NK: int64, contiguous; where the ids go.
        logit_NK: float32, contiguous; where their logits go, at the loss temperature.
        other_logit_NK: the same of the other model.
        vocabulary: V.
        count: K, at most V.
        scale: factor on the raw logits; under a soft cap, of the tangent's argument.
        cap: factor on the hyperbolic tangent.
        other_scale: the same of the other model.
        other_cap: the same of the other model.
        MODEL: RAW, SCALED or CAPPED.
        OTHER: the same of the other model.
        SECOND: whether the model is the second in `highest_ND`: the teacher.
        BLOCKS: D, or the next power of two.
        WIDTH: columns of a block, as for `token_sums`.
    """
    row = tl.program_id(0).to(tl.int64)
    row_V = logits + tl.load(row_N + row)
    other_row_V = other_logits + tl.load(other_row_N + row)
    blocks = vocabulary // WIDTH + 1
    lane_B = tl.arange(0, WIDTH)
    block_D = tl.arange(0, BLOCKS)
    start = (2 * row + SECOND) * blocks
    highest_D = tl.load(highest_ND + start + block_D, mask=block_D < blocks, other=EXCLUDED)
    # By keys, as there is no number below -inf.
    highest_D = tl.where(block_D < blocks, key(highest_D), _NOTHING)
    taken_key = tl.full((), 0x7FFFFFFF, tl.int32)
    taken = tl.full((), -1, tl.int32)
    for k in range(count):
        best = tl.max(highest_D)
        block = tl.min(tl.where(highest_D == best, block_D, BLOCKS - 1))
        column_B = block * WIDTH + lane_B
        logit_B, _ = logits_of(row_V, column_B, vocabulary, scale, cap, MODEL, False)
        key_B = key(logit_B)
        left_B = (key_B < taken_key) | ((key_B == taken_key) & (column_B > taken))
        key_B = tl.where(left_B & (column_B < vocabulary), key_B, _NOTHING)
        taken_key = tl.max(key_B)
        # With NaN in the row nothing may be left of this block: any token will do.
        taken = tl.min(tl.where(key_B == taken_key, column_B, vocabulary - 1))
        rest = tl.max(tl.where(column_B == taken, _NOTHING, key_B))
        highest_D = tl.where(block_D == block, rest, highest_D)
        logit = logit_of(row_V, taken, vocabulary, scale, cap, MODEL)
        other = logit_of(other_row_V, taken, vocabulary, other_scale, other_cap, OTHER)
        tl.store(id_NK + row * count + k, taken.to(tl.int64))
        tl.store(logit_NK + row * count + k, logit)
        tl.store(other_logit_NK + row * count + k, other)
