"""Students that start from a teacher's weights: the same family with fewer or narrower layers, and DistilBERT."""

from refimpl.distill.students.copying import Origin, StudentRecord
from refimpl.distill.students.distilbert import distilbert_from
from refimpl.distill.students.family import make_student
from refimpl.distill.students.layers import choose_layers

__all__ = ["Origin", "StudentRecord", "choose_layers", "distilbert_from", "make_student"]
