"""A `transformers.Trainer` with a teacher: accumulation, several processes, checkpoints and evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from refimpl.checks import check_number
from refimpl.distill import composition, evaluation
from refimpl.distill.resume import ResumableTrainer
from refimpl.distill.running import forward_takes, run_with
from refimpl.distill.terms import Schedule, Term, align_labels, at, counts, mask_of
from refimpl.measure.sample import at_rest

__all__ = ["DistillationTrainer"]

KINDS = ("labels", "tokens", "examples")


class DistillationTrainer(ResumableTrainer):
    """Train a student on a weighted sum of terms: ``L = sum_k w_k(progress) * term_k``.

    Without ``losses`` it is Hinton's loss, ``(1 - alpha) * hard + alpha * T**2 * KL`` over the positions that
    have a label (`hard_term`, `soft_term`). With ``losses`` it is the sum given, for DistilBERT's for example
    ``[(5.0, soft_term(2.0, over="tokens")), (2.0, hard_term()), (1.0, cosine)]``.

    Reduction: each term is a mean over its own positions (`Term.over`) *of the whole optimizer step*: of all
    accumulated batches and all processes together. So a step of several batches gives the gradient of one
    large batch, whatever their lengths. With ``alpha=0`` training is bit for bit that of `transformers.Trainer`
    and the teacher is not run.

    The teacher runs in evaluation mode without gradients, and each of its modules gets its own mode back; it
    is not in the optimizer and not in the checkpoints. A causal model's labels are shifted here, once, for all
    terms. Terms, weights and temperatures that follow a schedule are in the log: ``loss_hard``, ``loss_soft``,
    ``weight_hard``, ``temperature``.

    Evaluation gives, besides ``eval_loss``, over all positions (not a mean of batches' means): ``agreement``
    (equal top-1) and ``kl`` (teacher || student, T = 1, nats); with labels also ``accuracy``,
    ``cross_entropy`` and, for token-wise models, ``perplexity``, and the teacher's own as ``teacher_accuracy``,
    ... Padding examples that several processes add to the last batch are left out of these.

    Checkpoints: ``train(resume_from_checkpoint=True)`` takes the last *complete* one; killed at any moment and
    resumed, training ends with the weights it would have had, bit for bit on the same machine. The state of
    a schedule that has one (``state_dict``, as `Feedback`, which a callback updates) is kept in them.

    Scaling out is the Trainer's own affair::

        torchrun --nproc_per_node 8 train.py                               # DDP; use_cpu=True: gloo
        TrainingArguments(..., fsdp="full_shard", fsdp_config={...})       # FSDP shards the student
        TrainingArguments(..., deepspeed="zero2.json")                     # DeepSpeed, likewise

    Tested here is DDP, two processes on CPUs with gloo. FSDP and DeepSpeed get the student only: every process
    holds the whole teacher (load it in half precision where it is large), and training-only modules are
    refused with them. ``DataParallel`` (several GPUs in one process) is refused.

    Args:
        model: the student. Its ``forward`` takes the batch's entries by name and returns an object with
            ``logits`` ``[B, V]`` or ``[B, L, V]``. Labels are not handed to it (the terms use them).
        teacher: likewise; moved to the student's device. None if no term needs one.
        args, data_collator, train_dataset, ...: as in `transformers.Trainer`.
        losses: ``(weight, term)`` pairs, see `Term`; a plain function is a mean over tokens. A weight is a
            number >= 0 or a function of progress. A term of weight 0 is not computed.
        alpha: weight of the soft term, 0 to 1, or a function of progress; only without ``losses`` (0.5).
        temperature: of the soft term, or a function of progress; only without ``losses`` (2.0).
        causal: True if the model at position ``i`` predicts the label at ``i + 1``. None asks transformers'
            list of causal language models.

    Raises:
        TypeError, ValueError: no modules; a bad weight, alpha or temperature; both ``losses`` and ``alpha`` or
            ``temperature``; a teacher that shares trainable parameters with the student; a missing teacher;
            options of the Trainer that compute another loss (``compute_loss_func``, label smoothing).

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2, for the default loss.
    """

    loss_is_scaled_for_ga = True  # our loss is divided for the whole step already
    model: Any
    _signature_columns: Any

    def __init__(
        self,
        model: nn.Module | None = None,
        teacher: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        losses: composition.Losses | None = None,
        alpha: Schedule | None = None,
        temperature: Schedule | None = None,
        causal: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.terms = composition.weighted_terms(losses, alpha, temperature)
        held = [term.modules for _, term in self.terms if term.modules is not None]
        self.training_only = nn.ModuleList(dict.fromkeys(held))  # each once, in order
        composition.check(model, teacher, self.terms, self.training_only, args, kwargs)
        if len(self.training_only) and args is not None and args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # DDP would look for them in the student's outputs
        self._teacher_takes = set(forward_takes(teacher)) - {"labels"}
        super().__init__(model=model, args=args, **kwargs)
        self._student_takes = set(forward_takes(self.model)) - {"labels"}
        if self.args.n_gpu > 1:
            raise ValueError(f"args: got {self.args.n_gpu} GPUs in one process; takes one each, by torchrun")
        self.teacher = teacher
        if teacher is not None and getattr(teacher, "hf_device_map", None) is None:
            teacher.to(self.args.device)
        self.training_only.to(self.args.device)
        names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        self.causal = type(self.model).__name__ in names if causal is None else causal
        self._divisors: dict[str, Tensor] | None = None
        self._logged: dict[str, tuple[Tensor, set[int]]] = {}
        self._used: dict[str, float] = {}  # by the last step, of what follows a schedule
        self._seen: list[Tensor] | None = None
        self._term_sums: dict[str, Any] = {}
        self._token_wise = False

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The batches of one optimizer step; counts their positions, over all processes."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        device = self.args.device
        found = [counts(align_labels(batch, self.causal)) for batch in batches]
        local = [sum(torch.as_tensor(c[kind], device=device) for c in found) for kind in KINDS]
        total = torch.stack([torch.as_tensor(n, device=device) for n in local])
        total = self.accelerator.reduce(total, "sum")
        self._divisors = dict(zip(KINDS, total, strict=True))
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This batch's share of the step's loss (``num_items_in_batch`` counts labels only and is not used)."""
        batch = align_labels(inputs, self.causal)
        student, teacher = self._outputs(model, batch)
        here = counts(batch)
        whole = self._divisors if self._divisors is not None else here
        processes = 1 if self._divisors is None else self.accelerator.num_processes  # DDP takes their mean
        total = torch.zeros((), device=self.args.device)
        for factor, term in self._weighted():
            # a step without any position has a sum of 0, not 0 / 0
            divisor = torch.as_tensor(whole[term.over], device=total.device).clamp_min(1)
            value = self._sum(term, student, teacher, batch, here) / divisor * processes
            self._note(f"loss_{term.name}", value.detach())
            total = total + factor * value
        for weight, term in self.terms:
            varying = {f"weight_{term.name}": weight, **term.schedules}
            self._used |= {name: s(self.progress) for name, s in varying.items() if callable(s)}
        if processes > 1 or not total.requires_grad:
            # a process without any position, or an output that no term uses: DDP waits for every gradient
            total = total + student.logits.reshape(-1)[:0].sum()
        return (total, student) if return_outputs else total

    def _weighted(self) -> list[tuple[float, Term]]:
        """The terms that count now, with their weights."""
        now = [(check_number("weight", at(w, self.progress, "weight"), 0), term) for w, term in self.terms]
        return [(weight, term) for weight, term in now if weight > 0]

    def _sum(self, term: Term, student: Any, teacher: Any, batch: dict[str, Any], here: Any) -> Tensor:
        """A term's sum over the positions of one batch."""
        inputs = {**batch, "causal": self.causal, "progress": self.progress}
        if term.reduction == "sum":
            return term.loss(student, teacher, inputs)
        if not bool(here[term.over] > 0):
            return torch.zeros((), device=self.args.device)
        return term.loss(student, teacher, inputs) * here[term.over]

    @property
    def schedules(self) -> list[Any]:
        """Weights and temperatures that follow a schedule, in the order of the terms."""
        found = [s for weight, term in self.terms for s in (weight, *term.schedules.values())]
        return [s for s in found if callable(s)]

    @property
    def progress(self) -> float:
        """Fraction of the optimizer steps done, 0 to 1; 1 outside of training."""
        steps = self.state.max_steps
        return min(self.state.global_step / steps, 1.0) if steps > 0 else 1.0

    def _outputs(self, model: nn.Module, batch: dict[str, Any], evaluate: bool = False) -> tuple[Any, Any]:
        """Run the student, then the teacher if a term of weight > 0 asks for it (always to evaluate)."""
        terms = [term for _, term in self._weighted()]
        needs = {need for term in terms for need in term.needs}
        given = {k: v for k, v in batch.items() if k in self._student_takes}
        student = run_with(model, self.accelerator.unwrap_model(model), given, needs)
        if self.teacher is None or not (evaluate or any(term.teacher for term in terms)):
            return student, None
        given = {k: v for k, v in batch.items() if k in self._teacher_takes}
        if "use_cache" in self._teacher_takes:
            given["use_cache"] = False
        with at_rest(self.teacher), self.accelerator.autocast():
            return student, run_with(self.teacher, self.teacher, given, needs)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that only the teacher takes (token types beside a DistilBERT), or only a term."""
        super()._set_signature_columns_if_needed()
        columns = list(self._signature_columns)
        more = self._teacher_takes.union(*(term.columns for _, term in self.terms))
        self._signature_columns = [*columns, *sorted(more - set(columns))]

    def _note(self, name: str, value: Tensor) -> None:
        sum_, steps = self._logged.get(name, (torch.zeros((), device=self.args.device), set()))
        self._logged[name] = (sum_ + value, steps | {self.state.global_step})

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the terms since the last log, each a mean over the steps in which it was computed."""
        if "loss" in logs:
            for name, (sum_, steps) in self._logged.items():
                logs[name] = self.accelerator.reduce(sum_, "mean").item() / len(steps)
            self._logged.clear()
            logs |= self._used
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's loop; the loss becomes a mean over positions, the comparison joins its metrics."""
        self._seen = []
        self._term_sums = {}
        try:
            output = super().evaluation_loop(*args, **kwargs)
            seen, term_sums = self._seen, self._term_sums
        finally:
            self._seen = None
        found = evaluation.metrics(torch.cat(seen).sum(0), self._token_wise) if seen else {}
        if term_sums:
            found["loss"] = 0.0
            for factor, term in self._weighted():
                sum_, count = self.accelerator.reduce(term_sums[term.name], "sum").tolist()
                found[f"loss_{term.name}"] = sum_ / max(count, 1)
                found["loss"] += factor * found[f"loss_{term.name}"]
        prefix = kwargs.get("metric_key_prefix", "eval")
        metrics: Any = output.metrics
        metrics.update({f"{prefix}_{name}": value for name, value in found.items()})
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits and labels of one batch; keeps the sums that the metrics are made of."""
        inputs = self._prepare_inputs(inputs)
        batch = align_labels(inputs, self.causal)
        here = counts(batch)
        loss = torch.zeros((), device=self.args.device)
        with torch.no_grad():
            student, teacher = self._outputs(model, batch, evaluate=True)
            for factor, term in self._weighted():
                sum_, count = self._sum(term, student, teacher, batch, here), torch.as_tensor(here[term.over])
                loss = loss + factor * sum_ / count.to(sum_.device).clamp_min(1)
                pair = torch.stack([sum_.double(), count.to(sum_.device).double()])
                self._term_sums[term.name] = self._term_sums.get(term.name, 0) + pair
            if self._seen is not None:
                reference = None if teacher is None else teacher.logits
                mask = mask_of("tokens", batch, student.logits) if student.logits.ndim > 2 else None
                sums = evaluation.sums(student.logits, reference, batch.get("labels"), mask)
                self._seen.append(self.accelerator.gather_for_metrics(sums).cpu())
                self._token_wise = student.logits.ndim > 2
        return (loss, None, None) if prediction_loss_only else (loss, student.logits, inputs.get("labels"))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; ``True`` resumes from the last checkpoint that was written to its end."""
        self._logged.clear()
        try:
            return super().train(*args, **kwargs)
        finally:
            self._divisors = None
