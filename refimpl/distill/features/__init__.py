"""What a teacher's layers know, as losses: hidden states, attention, relations; and how to get at them."""

from refimpl.distill.features.attention import attention_loss
from refimpl.distill.features.capture import Captured, capture
from refimpl.distill.features.hidden import Projections, cosine_loss, hidden_loss
from refimpl.distill.features.relations import relation_loss

__all__ = [
    "Captured",
    "Projections",
    "attention_loss",
    "capture",
    "cosine_loss",
    "hidden_loss",
    "relation_loss",
]
