"""Measure a model: parameters, bytes, multiply-accumulates, latency, peak memory, and an energy estimate.

``report(model, sample)`` gives all of it for one model, ``compare({name: model}, sample)`` for several, with
their runs interleaved so that the ratios of the times are fair. Nothing here changes the model.
"""

from refimpl.measure.energy import PICOJOULES, energy_mj
from refimpl.measure.memory import peak_memory
from refimpl.measure.reports import Comparison, Report, Table, compare, report
from refimpl.measure.sizes import Parameters, bytes_in_memory, parameters
from refimpl.measure.timing import Latency, latency
from refimpl.measure.work import Macs, macs

__all__ = [
    "PICOJOULES",
    "Comparison",
    "Latency",
    "Macs",
    "Parameters",
    "Report",
    "Table",
    "bytes_in_memory",
    "compare",
    "energy_mj",
    "latency",
    "macs",
    "parameters",
    "peak_memory",
    "report",
]
