"""Pruning: what is removed, how the rest is stored, and what really becomes smaller and faster."""

from refimpl.blocks import ATTENTION, FEED_FORWARD, Block, Layout, find_blocks
from refimpl.prune.depth import Layers
from refimpl.prune.magnitude import Magnitude, magnitude_masks, magnitude_scores
from refimpl.prune.masks import apply_mask, mask_from_scores, mask_n_of_m, removed_count
from refimpl.prune.packed import Bitmask, BitmaskLinear, compress_storage_
from refimpl.prune.scores import output_scores, weight_scores
from refimpl.prune.storage import (
    bitmask_bytes,
    break_even_density,
    csr_bytes,
    decode_bitmask,
    decode_csr,
    decode_two_four,
    dense_bytes,
    encode_bitmask,
    encode_csr,
    encode_two_four,
    two_four_bytes,
)
from refimpl.prune.structured import Heads, Neurons, group_scores
from refimpl.prune.verb import prune_

__all__ = [
    "ATTENTION",
    "FEED_FORWARD",
    "Bitmask",
    "BitmaskLinear",
    "Block",
    "Heads",
    "Layers",
    "Layout",
    "Magnitude",
    "Neurons",
    "apply_mask",
    "bitmask_bytes",
    "break_even_density",
    "compress_storage_",
    "csr_bytes",
    "decode_bitmask",
    "decode_csr",
    "decode_two_four",
    "dense_bytes",
    "encode_bitmask",
    "encode_csr",
    "encode_two_four",
    "find_blocks",
    "group_scores",
    "magnitude_masks",
    "magnitude_scores",
    "mask_from_scores",
    "mask_n_of_m",
    "output_scores",
    "prune_",
    "removed_count",
    "two_four_bytes",
    "weight_scores",
]
