"""Who teaches whom, and on what: chains, ensembles, peers, generations, adversaries, the student's own texts."""

from refimpl.distill.strategies.adversarial import AdversarialTrainer, Discriminator, adversarial_terms
from refimpl.distill.strategies.assistants import distill_chain
from refimpl.distill.strategies.born_again import born_again
from refimpl.distill.strategies.mutual import mutual_losses, mutual_term
from refimpl.distill.strategies.on_policy import OnPolicyTrainer, jsd_term
from refimpl.distill.strategies.sequence import generate_targets
from refimpl.distill.strategies.teachers import MultiTeacher, average_logits, average_probabilities

__all__ = [
    "AdversarialTrainer",
    "Discriminator",
    "MultiTeacher",
    "OnPolicyTrainer",
    "adversarial_terms",
    "average_logits",
    "average_probabilities",
    "born_again",
    "distill_chain",
    "generate_targets",
    "jsd_term",
    "mutual_losses",
    "mutual_term",
]
