"""Students: what they are made of, to the unit, and what they compute, against transformers and by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertForMaskedLM,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from refimpl import checkpoint, models, modules
from refimpl.distill import choose_layers, distilbert_from, make_student
from tests.prune.test_structured import make as make_any

BERT = {"vocab_size": 61, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
BERT |= {"max_position_embeddings": 32, "num_hidden_layers": 12}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_head": 4, "n_layer": 12, "n_positions": 32}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
SIX = (0, 2, 4, 7, 9, 11)


def seeded(make):
    """Weights of a size at which every part of a layer matters; no bias or norm is left at its start value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return model


def bert(**changes):
    return seeded(lambda: BertForMaskedLM(BertConfig(**{**BERT, **changes})))


def gpt2(**changes):
    return seeded(lambda: GPT2LMHeadModel(GPT2Config(**{**GPT2, **changes})))


def batch():
    ids = torch.randint(1, 61, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([[9], [5]])).long()
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def logits(model):
    return model(**batch()).logits[batch()["attention_mask"].bool()]


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


# ---- naive transformers, written from the papers and run on a state_dict ---------------------------------


def norm(w, name, x):
    return F.layer_norm(
        x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12 if "LayerNorm" in name else 1e-5
    )


def attention(q, k, v, heads, allowed):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (B, A, L, d)
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def naive_bert(w, layers, ids, mask, heads=4):
    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    e = "bert.embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.position_embeddings.weight"][: ids.shape[1]]
    x = norm(w, f"{e}.LayerNorm", x + w[f"{e}.token_type_embeddings.weight"][0])
    for i in layers:
        p = f"bert.encoder.layer.{i}"
        q, k, v = (linear(f"{p}.attention.self.{n}", x) for n in ("query", "key", "value"))
        seen = attention(q, k, v, heads, mask[:, None, None].bool())
        x = norm(w, f"{p}.attention.output.LayerNorm", x + linear(f"{p}.attention.output.dense", seen))
        grown = F.gelu(linear(f"{p}.intermediate.dense", x))
        x = norm(w, f"{p}.output.LayerNorm", x + linear(f"{p}.output.dense", grown))
    head = "cls.predictions"
    x = norm(w, f"{head}.transform.LayerNorm", F.gelu(linear(f"{head}.transform.dense", x)))
    return x @ w["bert.embeddings.word_embeddings.weight"].T + w[f"{head}.bias"]


def naive_gpt2(w, layers, ids, heads=4):
    def conv(name, x):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: ids.shape[1]]
    causal = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
    for i in layers:
        p = f"transformer.h.{i}"
        q, k, v = conv(f"{p}.attn.c_attn", norm(w, f"{p}.ln_1", x)).chunk(3, -1)
        x = x + conv(f"{p}.attn.c_proj", attention(q, k, v, heads, causal))
        grown = F.gelu(conv(f"{p}.mlp.c_fc", norm(w, f"{p}.ln_2", x)), approximate="tanh")
        x = x + conv(f"{p}.mlp.c_proj", grown)
    return norm(w, "transformer.ln_f", x) @ w["transformer.wte.weight"].T


@pytest.mark.parametrize("layers", [SIX, (11,), tuple(range(12))])
def test_a_bert_student_is_the_teacher_with_those_blocks(layers):
    teacher = bert()
    student, record = make_student(teacher, layers)
    real = batch()["attention_mask"].bool()
    expected = naive_bert(
        teacher.state_dict(), layers, **dict(zip(("ids", "mask"), batch().values(), strict=True))
    )
    torch.testing.assert_close(logits(student), expected[real], rtol=1e-4, atol=1e-5)
    assert record.layers == layers and student.config.num_hidden_layers == len(layers)


@pytest.mark.parametrize("layers", [SIX, (3,), tuple(range(12))])
def test_a_gpt2_student_is_the_teacher_with_those_blocks(layers):
    teacher = gpt2()
    student, _ = make_student(teacher, layers)
    real = batch()["attention_mask"].bool()
    expected = naive_gpt2(teacher.state_dict(), layers, batch()["input_ids"])  # padding is on the right
    torch.testing.assert_close(logits(student), expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_with_all_layers_the_student_is_the_teacher(make):
    teacher = make()
    student, record = make_student(teacher, range(12))
    assert torch.equal(logits(student), logits(teacher))
    assert record.dropped == () and {o.how for o in record.origins.values()} == {"whole"}


def test_distilbert_with_all_layers_and_folded_token_types_is_the_teacher():
    """The decisive test: another implementation of the same function."""
    teacher = bert()
    student, record = distilbert_from(teacher, range(12), token_types="fold")
    assert type(student) is DistilBertForMaskedLM
    torch.testing.assert_close(logits(student), logits(teacher), rtol=1e-5, atol=1e-5)
    assert record.dropped == ()
    assert record.origins["distilbert.embeddings.position_embeddings.weight"].how == "folded"
    dropped, record = distilbert_from(teacher, range(12))
    assert (logits(dropped) - logits(teacher)).abs().max() > 0.01
    assert record.dropped == ("bert.embeddings.token_type_embeddings.weight",)


def test_distilbert_of_half_the_layers_is_bert_with_those_blocks():
    teacher = bert()
    student, record = distilbert_from(teacher, token_types="fold")
    assert record.layers == SIX
    expected = naive_bert(teacher.state_dict(), SIX, batch()["input_ids"], batch()["attention_mask"])
    real = batch()["attention_mask"].bool()
    torch.testing.assert_close(logits(student), expected[real], rtol=1e-4, atol=1e-5)


def test_distilbert_of_a_bare_bert_leaves_the_pooler():
    teacher = seeded(lambda: BertModel(BertConfig(**BERT)))
    student, record = distilbert_from(teacher, range(12), token_types="fold")
    assert type(student) is DistilBertModel
    assert record.dropped == ("pooler.dense.weight", "pooler.dense.bias")
    with torch.no_grad():
        a, b = (m(**batch()).last_hidden_state[batch()["attention_mask"].bool()] for m in (teacher, student))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# ---- what is there, to the unit ---------------------------------------------------------------------------


def test_published_counts(monkeypatch):
    for draw in ("normal_", "uniform_"):  # full size without the seconds of random numbers
        monkeypatch.setattr(torch.Tensor, draw, lambda self, *_, **__: self.zero_())
    teacher = BertForMaskedLM(BertConfig())
    assert modules.parameters_once(teacher) == 109_514_298
    student, _ = distilbert_from(teacher)
    assert modules.parameters_once(student) == 66_985_530
    assert modules.parameters_once(student.distilbert) == 66_362_880
    student, _ = make_student(GPT2LMHeadModel(GPT2Config()))
    assert modules.parameters_once(student) == 81_912_576
    assert student.config.n_layer == models.SHAPES["distilgpt2"][1]["n_layer"]


@pytest.mark.parametrize("make", [bert, gpt2])
def test_every_tensor_is_a_copy_and_the_teacher_is_untouched(make):
    teacher = make()
    before = state(teacher)
    generator = torch.random.get_rng_state()
    student, record = make_student(teacher)
    assert torch.equal(torch.random.get_rng_state(), generator)
    theirs = dict(teacher.named_parameters(remove_duplicate=False))
    assert set(record.origins) == set(student.state_dict())
    for name, tensor in student.named_parameters(remove_duplicate=False):
        origin = record.origins[name]
        assert origin.how == "whole" and torch.equal(tensor, theirs[origin.name])
        assert tensor.data_ptr() != theirs[origin.name].data_ptr()
        assert tensor.requires_grad
    assert set(record.dropped) == set(before) - {o.name for o in record.origins.values()}
    assert all("layer.1." in n or "h.1." in n for n in record.dropped[:4])
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1)
    assert all(torch.equal(t, before[n]) for n, t in teacher.state_dict().items())
    assert teacher.config.num_hidden_layers == 12 and not student.training
    assert student.config._attn_implementation == teacher.config._attn_implementation


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_dtype_and_attention_implementation_are_the_teachers(implementation):
    teacher = bert().bfloat16()
    teacher.set_attn_implementation(implementation)
    for student, _ in (make_student(teacher), distilbert_from(teacher)):
        assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
        assert student.config._attn_implementation == implementation


@pytest.mark.parametrize("make", [bert, gpt2])
def test_ties_stay_and_stay_in_training(make):
    teacher = make().requires_grad_(False)
    student, _ = make_student(teacher, count=2)
    path = {bert: "bert.embeddings.word_embeddings.weight", gpt2: "transformer.wte.weight"}[make]
    assert any(path in group for group in modules.tied_parameters(student))
    assert len(modules.tied_parameters(student)) == len(modules.tied_parameters(teacher))
    student.train()(**batch(), labels=batch()["input_ids"]).loss.backward()
    torch.optim.SGD(student.parameters(), 0.1).step()
    assert student.get_input_embeddings().weight is student.get_output_embeddings().weight


def test_an_untied_teacher_gives_an_untied_student():
    teacher = bert(tie_word_embeddings=False)
    with torch.no_grad():
        teacher.cls.predictions.decoder.weight.add_(1)
    for student, _ in (make_student(teacher), distilbert_from(teacher)):
        ours = student.get_output_embeddings().weight
        assert torch.equal(ours, teacher.cls.predictions.decoder.weight)
        assert torch.equal(
            student.get_input_embeddings().weight, teacher.bert.embeddings.word_embeddings.weight
        )
    cut = modules.untie_(bert(), "cls.predictions.decoder.weight")
    student, _ = make_student(cut)
    assert student.get_output_embeddings().weight is not student.get_input_embeddings().weight
    assert modules.tied_parameters(student) == modules.tied_parameters(cut)  # the biases, still


def test_a_tie_that_only_the_model_knows_stays():
    teacher = bert()
    attention = teacher.bert.encoder.layer[7].attention.self
    attention.key.weight = attention.query.weight
    student, _ = make_student(teacher)
    ours = student.bert.encoder.layer[3].attention.self
    assert ours.key.weight is ours.query.weight and torch.equal(ours.key.weight, attention.key.weight)


def test_generation_uses_the_cache_of_the_layers_that_are_there():
    student, _ = make_student(gpt2(), (1, 5, 10))
    assert [b.attn.layer_idx for b in student.transformer.h] == [0, 1, 2]
    ids = batch()["input_ids"][:1, :4]
    with_cache, without = (
        student.generate(ids, max_new_tokens=8, do_sample=False, use_cache=c, pad_token_id=0)
        for c in (True, False)
    )
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("how", ["save_pretrained", "checkpoint"])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_student_is_saved_and_loaded(how, narrow, tmp_path):
    for made in (make_student(gpt2(), hidden_size=16 if narrow else None), distilbert_from(bert())):
        student = made[0]
        folder = tmp_path / type(student).__name__
        if how == "checkpoint":
            checkpoint.save(student, folder)
            again = checkpoint.load(folder)
        else:
            student.save_pretrained(folder)
            again = type(student).from_pretrained(folder).eval()
        assert torch.equal(logits(again), logits(student))


def test_shared_embeddings_are_the_teachers_memory_and_training_cannot_reach_them():
    for make in (bert, gpt2):
        teacher = make()
        before = state(teacher)
        student, record = make_student(teacher, share_embeddings=True)
        theirs = dict(teacher.named_parameters(remove_duplicate=False))
        shared = {n for n, o in record.origins.items() if o.how == "shared"}
        tables = {n for n in shared if "embedding" in n or "wte" in n or "wpe" in n}
        assert len(tables) == (3 if make is bert else 2) and len(shared - tables) == 1  # the tied output
        for name, p in student.named_parameters(remove_duplicate=False):
            assert (p.data_ptr() == theirs[name.replace("x", "x")].data_ptr()) == (
                name in shared
            ) or "." in name
            assert p.requires_grad != (name in shared)
        for name in shared:
            assert student.get_parameter(name).data_ptr() == theirs[record.origins[name].name].data_ptr()
        assert torch.equal(logits(student), logits(make_student(teacher)[0]))
        student.train()(**batch(), labels=batch()["input_ids"]).loss.backward()
        torch.optim.AdamW(student.parameters(), 0.1).step()
        assert all(torch.equal(t, before[n]) for n, t in teacher.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


# ---- narrower ---------------------------------------------------------------------------------------------


def test_narrower_by_hand():
    """Two of four heads of 8: the first two, whole; of everything else the leading entries."""
    teacher = bert()
    student, record = make_student(teacher, (0, 5), hidden_size=16)
    config = student.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (16, 2, 24)
    ours, theirs = student.bert.encoder.layer[1], teacher.bert.encoder.layer[5]
    assert torch.equal(ours.attention.self.query.weight, theirs.attention.self.query.weight[:16, :16])
    assert torch.equal(ours.attention.self.value.bias, theirs.attention.self.value.bias[:16])
    assert torch.equal(ours.attention.output.dense.weight, theirs.attention.output.dense.weight[:16, :16])
    assert torch.equal(ours.intermediate.dense.weight, theirs.intermediate.dense.weight[:24, :16])
    assert torch.equal(ours.output.LayerNorm.weight, theirs.output.LayerNorm.weight[:16])
    word = teacher.bert.embeddings.word_embeddings.weight
    assert torch.equal(student.bert.embeddings.word_embeddings.weight, word[:, :16])
    assert torch.equal(student.cls.predictions.decoder.weight, word[:, :16])
    assert torch.equal(student.cls.predictions.bias, teacher.cls.predictions.bias)
    assert record.origins["cls.predictions.bias"].how == "whole"
    assert record.origins["cls.predictions.decoder.weight"].how == "part"
    assert logits(student).isfinite().all()


def test_narrower_gpt2_takes_whole_heads_out_of_the_fused_matrix():
    teacher = gpt2()
    student, _ = make_student(teacher, (4,), heads=1)
    assert (student.config.n_embd, student.config.n_head) == (8, 1)
    ours, theirs = student.transformer.h[0], teacher.transformer.h[4]
    q, k, v = theirs.attn.c_attn.weight.chunk(3, 1)  # Conv1D: [in, out]
    assert torch.equal(ours.attn.c_attn.weight, torch.cat([t[:8, :8] for t in (q, k, v)], 1))
    q, k, v = theirs.attn.c_attn.bias.chunk(3)
    assert torch.equal(ours.attn.c_attn.bias, torch.cat([t[:8] for t in (q, k, v)]))
    assert torch.equal(ours.attn.c_proj.weight, theirs.attn.c_proj.weight[:8, :8])
    assert torch.equal(ours.mlp.c_fc.weight, theirs.mlp.c_fc.weight[:8, :32])
    assert torch.equal(ours.mlp.c_proj.weight, theirs.mlp.c_proj.weight[:32, :8])


def test_as_many_heads_of_half_the_width():
    """MiniLM's shape: 12 heads of 32 beside 12 of 64. Each head keeps its own leading features."""
    teacher, twice = bert(), gpt2()
    student, _ = make_student(teacher, (2,), hidden_size=16, heads=4, intermediate_size=5)
    old, new = teacher.bert.encoder.layer[2].attention, student.bert.encoder.layer[0].attention
    rows = [head * 8 + i for head in range(4) for i in range(4)]
    assert torch.equal(new.self.key.weight, old.self.key.weight[rows][:, :16])
    assert torch.equal(new.self.key.bias, old.self.key.bias[rows])
    assert torch.equal(new.output.dense.weight, old.output.dense.weight[:16][:, rows])
    assert student.bert.encoder.layer[0].intermediate.dense.weight.shape == (5, 16)
    student, _ = make_student(twice, (2,), hidden_size=16, heads=4, intermediate_size=5)
    old, new = twice.transformer.h[2], student.transformer.h[0]
    fused = [part * 32 + row for part in range(3) for row in rows]
    assert torch.equal(new.attn.c_attn.weight, old.attn.c_attn.weight[:16][:, fused])
    assert torch.equal(new.attn.c_proj.weight, old.attn.c_proj.weight[rows][:, :16])
    assert new.mlp.c_fc.weight.shape == (16, 5) and student.config.n_inner == 5


@torch.no_grad()
def test_cutting_what_is_zero_changes_nothing():
    """Heads and neurons whose output is 0 can go: the ones that stay are where they belong."""
    for make in (bert, gpt2):
        teacher = make()
        for name, p in teacher.named_parameters():
            if name.endswith(("intermediate.dense.weight", "intermediate.dense.bias")):
                p[20:] = 0
            elif name.endswith(("c_fc.weight", "c_fc.bias")):
                p[..., 20:] = 0
        student, _ = make_student(teacher, range(12), intermediate_size=20)
        torch.testing.assert_close(logits(student), logits(teacher), rtol=1e-5, atol=1e-5)


def test_intermediate_sizes_of_every_family():
    assert make_student(gpt2(), heads=2)[0].transformer.h[0].mlp.c_fc.weight.shape == (16, 64)
    assert make_student(gpt2(n_inner=40), heads=2)[0].config.n_inner == 20
    assert make_student(make_any("distilbert"), heads=2)[0].config.hidden_dim == 24
    assert make_student(make_any("roberta"), intermediate_size=7)[0].config.intermediate_size == 7


# ---- other models, and what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["distilbert", "roberta", "llama", "opt"])
def test_other_families_lose_layers(name):
    teacher = make_any(name)
    same, _ = make_student(teacher, (0, 1))
    ids = batch()["input_ids"]
    with torch.no_grad():
        assert torch.equal(same(ids)[0], teacher(ids)[0])
        student, record = make_student(teacher, "last")
        assert record.layers == (1,) and student(ids)[0].isfinite().all()


def test_a_teacher_without_pooler_and_one_with_a_task_head():
    bare = seeded(lambda: BertModel(BertConfig(**BERT), add_pooling_layer=False))
    student, record = make_student(bare)
    assert student.pooler is None and not any("pooler" in name for name in record.origins)
    task = seeded(lambda: BertForSequenceClassification(BertConfig(**BERT, num_labels=5)))
    student, record = make_student(task, hidden_size=16)
    assert torch.equal(student.classifier.weight, task.classifier.weight[:, :16])


def test_rules():
    assert choose_layers(12) == SIX
    assert choose_layers(24) == choose_layers(24, "spread", 12) == (0, 2, 4, 6, 8, 10, 13, 15, 17, 19, 21, 23)
    assert choose_layers(12, count=2) == (0, 11)
    assert choose_layers(12, count=1) == (0,)
    assert choose_layers(5, "spread", 3) == (0, 2, 4)
    assert choose_layers(4, "spread", 3) == (0, 2, 3)  # 1.5 rounds up
    assert choose_layers(12, "every_other") == (0, 2, 4, 6, 8, 10)
    assert choose_layers(3, "every_other") == (0, 2)
    assert choose_layers(12, "first", 3) == (0, 1, 2)
    assert choose_layers(12, "last", 3) == (9, 10, 11)
    assert choose_layers(5, "last") == (3, 4)
    assert choose_layers(1) == (0,)
    for total in range(1, 30):
        for count in range(1, total + 1):
            kept = choose_layers(total, "spread", count)
            assert len(set(kept)) == count and kept == tuple(sorted(kept)) and kept[0] == 0
            assert count == 1 or kept[-1] == total - 1


def broken(change):
    model = bert(num_hidden_layers=2)
    with torch.no_grad():
        change(model)
    return model


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: make_student(nn.Linear(2, 2)), TypeError, "teacher: got Linear"),
        (lambda: make_student(bert(), "middle"), ValueError, "layers: got 'middle'"),
        (lambda: make_student(bert(), 3), TypeError, "layers: got int"),
        (lambda: make_student(bert(), []), ValueError, r"layers: got \(\)"),
        (lambda: make_student(bert(), [1, 1]), ValueError, "none twice"),
        (lambda: make_student(bert(), [2, 1]), ValueError, "ascending"),
        (lambda: make_student(bert(), [0, 12]), ValueError, "layers: got 12; takes an integer from 0 to 11"),
        (lambda: make_student(bert(), [0.5]), TypeError, "layers: got 0.5"),
        (lambda: make_student(bert(), [0], count=1), ValueError, "count: got 1 with given layers"),
        (lambda: make_student(bert(), count=13), ValueError, "count: got 13; takes an integer from 1 to 12"),
        (lambda: make_student(bert(), count=0), ValueError, "count: got 0"),
        (lambda: make_student(bert(), "every_other", count=6), ValueError, "count: got 6 with 'every_other'"),
        (lambda: make_student(bert(), hidden_size=33), ValueError, "hidden_size: got 33; takes .* to 32"),
        (lambda: make_student(bert(), hidden_size=20), ValueError, "hidden_size: got 20; takes a multiple"),
        (lambda: make_student(bert(), hidden_size=4), ValueError, "hidden_size: got 4"),
        (lambda: make_student(bert(), hidden_size=32, heads=2), ValueError, "widths of at most 8"),
        (lambda: make_student(bert(), heads=5), ValueError, "heads: got 5"),
        (
            lambda: make_student(bert(), intermediate_size=49),
            ValueError,
            "intermediate_size: got 49; .* to 48",
        ),
        (lambda: make_student(gpt2(), intermediate_size=129), ValueError, "takes an integer from 1 to 128"),
        (lambda: make_student(bert(), hidden_size=8, share_embeddings=True), ValueError, "share_embeddings"),
        (lambda: make_student(make_any("llama"), hidden_size=16), ValueError, "none of 3 layouts"),
        (
            lambda: make_student(gpt2(scale_attn_by_inverse_layer_idx=True)),
            ValueError,
            "scale_attn_by_inverse_layer_idx",
        ),
        (
            lambda: make_student(
                broken(lambda m: m.bert.encoder.layer[0].output.dense.weight[0].fill_(math.nan))
            ),
            ValueError,
            "teacher: bert.encoder.layer.0.output.dense.weight: got NaN",
        ),
        (
            lambda: make_student(
                broken(lambda m: m.bert.encoder.layer[0].add_module("extra", nn.Linear(2, 2)))
            ),
            ValueError,
            "bert.encoder.layer.0.extra.bias",
        ),
        (
            lambda: make_student(
                broken(lambda m: setattr(m.bert.encoder.layer[0].intermediate, "dense", nn.Linear(32, 9)))
            ),
            ValueError,
            "none of|of shape",
        ),
        (
            lambda: make_student(
                broken(
                    lambda m: setattr(m.cls.predictions.decoder, "weight", nn.Parameter(torch.ones(61, 32)))
                )
            ),
            ValueError,
            "word_embeddings.weight.* untied, where its configuration ties them",
        ),
        (lambda: distilbert_from(gpt2()), TypeError, "teacher: got GPT2LMHeadModel"),
        (lambda: distilbert_from(bert(), token_types="keep"), ValueError, "token_types: got 'keep'"),
        (lambda: distilbert_from(bert(), [12]), ValueError, "layers: got 12"),
        (lambda: distilbert_from(bert(is_decoder=True)), ValueError, "is_decoder=True"),
        (lambda: distilbert_from(bert(layer_norm_eps=1e-5)), ValueError, "layer_norm_eps=1e-05"),
        (
            lambda: distilbert_from(broken(lambda m: m.bert.embeddings.LayerNorm.bias.fill_(math.inf))),
            ValueError,
            "teacher: distilbert.embeddings.LayerNorm.bias: got NaN or infinite",
        ),
        (
            lambda: distilbert_from(
                broken(lambda m: setattr(m.bert.encoder.layer[0].intermediate, "dense", nn.Linear(32, 9)))
            ),
            ValueError,
            "takes a BERT as it was built",
        ),
        (lambda: choose_layers(0), ValueError, "total: got 0"),
        (lambda: choose_layers(3, "random"), ValueError, "how: got 'random'"),
    ],
)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


def test_the_teacher_may_be_any_subclass():
    class Mine(GPT2LMHeadModel):
        pass

    teacher = seeded(lambda: Mine(GPT2Config(**GPT2)))
    student, _ = make_student(teacher)
    assert type(student) is Mine and isinstance(student, PreTrainedModel)
    assert copy.deepcopy(student).config.n_layer == 6
