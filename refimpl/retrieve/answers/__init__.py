"""Retrieval in place of inference: labels and next tokens of neighbours, and answers that were given before."""

from refimpl.retrieve.answers.cache import Calibration, SemanticCache, break_even_hit_rate, calibrate
from refimpl.retrieve.answers.language import Datastore, contexts, interpolate
from refimpl.retrieve.answers.neighbours import neighbour_probabilities

__all__ = [
    "Calibration",
    "Datastore",
    "SemanticCache",
    "break_even_hit_rate",
    "calibrate",
    "contexts",
    "interpolate",
    "neighbour_probabilities",
]
