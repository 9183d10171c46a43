"""Save and load a compressed model: one safetensors file and one JSON spec, no pickle.

The spec says how to make the uncompressed model (a transformers class and configuration, or your own
factory) and lists the steps that were taken; `load` replays the steps' shapes and then fills in the
tensors. It names only classes inside refimpl and transformers: a file cannot make `load` run other code.
"""

from refimpl.checkpoint.files import Size, load, save, size
from refimpl.checkpoint.rebuild import CheckpointError

__all__ = ["CheckpointError", "Size", "load", "save", "size"]
