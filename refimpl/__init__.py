"""Reference implementations of model compression: small, exact, measured.

One folder a family (`distill`, `prune`, `quantize`, `lowrank`, `retrieve`) on a common ground floor
(`modules`, `calibration`, `measure`, `checkpoint`, `data`, `models`). Import what you need by its full
name, e.g. ``from refimpl.prune import Magnitude, prune_``; importing `refimpl` alone loads nothing heavy.
"""

__version__ = "0.1.0"
