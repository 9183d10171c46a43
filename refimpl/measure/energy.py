"""An estimate of energy from counts: good for ranking models, not for reading off joules."""

from __future__ import annotations

from collections.abc import Mapping

from refimpl.checks import check_choice, check_int

# pJ of one multiplication and one addition at 45 nm and 0.9 V: Horowitz, "Computing's energy problem (and
# what we can do about it)", ISSCC 2014, figure 1.1.9.
PICOJOULES = {
    "float32": 3.7 + 0.9,
    "float16": 1.1 + 0.4,
    "bfloat16": 1.1 + 0.4,  # not in the source; the same width
    "int32": 3.1 + 0.1,
    "int8": 0.2 + 0.03,
    "uint8": 0.2 + 0.03,
}
# pJ to bring one byte from DRAM: 640 pJ for a 32-bit word in the same technology (Horowitz gives 1.3 to 2.6
# nJ for 64 bits; this is the lower end, as given by Han et al., Deep Compression, ICLR 2016, section 1)
PICOJOULES_PER_BYTE = 640 / 4


def energy_mj(macs: Mapping[str, int], bytes_moved: int = 0) -> float:
    """Millijoules = (Σ_format MACs · pJ per MAC + bytes moved · 160 pJ) · 1e-9.

    For models on one machine it tells which of two needs more. It is no measurement: the constants are those
    of a 45 nm chip, today's need several times less; caches, control, leakage and everything element by
    element are left out.

    Args:
        macs: multiply-accumulates by number format, as ``Macs.by_format``. Formats that are not in
            `PICOJOULES` are refused.
        bytes_moved: to and from memory.

    Raises:
        TypeError: not a mapping of integers.
        ValueError: an unknown format, a negative number.
    """
    if not isinstance(macs, Mapping):
        raise TypeError(f"macs: got {type(macs).__name__}; takes a mapping of formats to numbers")
    picojoules = check_int("bytes_moved", bytes_moved, 0) * PICOJOULES_PER_BYTE
    for name, number in macs.items():
        picojoules += check_int("macs", number, 0) * PICOJOULES[check_choice("macs", name, PICOJOULES)]
    return picojoules * 1e-9
