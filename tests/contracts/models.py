"""Tiny models on which the contracts are checked, made by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from refimpl import modules

VOCABULARY = 61


class TinyMLP(nn.Module):
    """Embedding, two linear layers: any module, nothing from transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 24)
        self.up = nn.Linear(24, 40)
        self.down = nn.Linear(40, 24, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.down(torch.relu(self.up(self.embed(input_ids))))


def mlp() -> nn.Module:
    return TinyMLP()


def bert() -> nn.Module:
    return BertModel(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=32,
        )
    )


def gpt2() -> nn.Module:
    """With Conv1D layers and an output layer tied to the embedding."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


MAKERS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "bert": bert, "gpt2": gpt2}


def make(name: str, seed: int = 0) -> nn.Module:
    """A seeded model in evaluation mode, with biases and LayerNorms that are not at their start values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MAKERS[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch() -> dict[str, Tensor]:
    """Two sequences of 9 tokens, the second with four positions of padding at its end."""
    ids = torch.randint(1, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def output(result: Any) -> Tensor:
    """The one tensor that a model's result is about."""
    if isinstance(result, Tensor):
        return result
    return result.logits if "logits" in result else result.last_hidden_state


def run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return output(model(**batch()))


def linearised(model: nn.Module) -> nn.Module:
    """The same function with every Conv1D replaced by the Linear that has the transposed weight."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv1D):
            out_features, in_features = modules.weight_of(layer).shape
            linear = nn.Linear(in_features, out_features)
            with torch.no_grad():
                linear.weight.copy_(layer.weight.T)
                linear.bias.copy_(layer.bias)
            modules.replace_(model, name, linear.eval())
    return model
