"""Small models that every test file shares: narrow, seeded, in eval mode, made anew for each test."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a network; never wait for one

import pytest
import torch
from torch import nn

from refimpl import models

VOCABULARY = 120


@pytest.fixture
def tiny_bert():
    """BertModel: 2 layers, 32 wide, 4 heads, feed-forward 64."""
    return models.build(
        "bert-base-uncased",
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )


@pytest.fixture
def tiny_bert_mlm():
    """BertForMaskedLM of tiny_bert's shape; its decoder is tied to the word embeddings."""
    return models.build(
        "bert-base-uncased",
        head="masked-lm",
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )


@pytest.fixture
def tiny_gpt2():
    """GPT2LMHeadModel: 2 layers, 32 wide, 4 heads, Conv1D layers, lm_head tied to the embeddings."""
    return models.build(
        "gpt2",
        head="causal-lm",
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )


@pytest.fixture
def tiny_mlp():
    """Linear 16 -> 32, GELU, Linear 32 -> 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8)).eval()


@pytest.fixture
def tiny_batch():
    """input_ids and attention_mask ``[3, 9]`` for the tiny models: 9, 5 and 2 real positions, then padding."""
    ids = torch.randint(1, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([[9], [5], [2]])).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture(scope="session")
def minilm():
    """``(model, tokenizer)`` of the real all-MiniLM-L6-v2. Shared by the session: copy before changing it."""
    return models.load_minilm()
