"""int8 for real: the whole of all-MiniLM-L6-v2 on 32 x 128 tokens, beside every other way to have it in bytes.

Same inputs for all, results compared in fp32, times paired and interleaved. Cosines are of the mean-pooled
output with that of the fp32 model: on random tokens (the hard case: nothing that the model was trained on)
and on text.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refimpl import data, measure, models, modules
from refimpl.quantize import Int8Dynamic, Int8Weights, integer_path, quantize_

Batch = dict[str, Tensor]
Encoder = Callable[[Batch], Tensor]
GOALS = {"ours eager": 1.8, "ours compiled": 2.7}  # times as fast as fp32 eager, where VNNI is


class NaiveInt8(nn.Module):
    """The first thing one writes: per-token activations, per-channel weights, `torch._int_mm`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.scale = weight.abs().amax(1) / 127
        self.weight = (weight / self.scale[:, None]).round().to(torch.int8).T.contiguous()
        self.bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(1, keepdim=True) / 127
        q = (rows / scale).round().clamp(-127, 127).to(torch.int8)
        y = torch._int_mm(q, self.weight).float() * scale * self.scale + self.bias
        return y.reshape(*x.shape[:-1], -1)


def encoder(model: nn.Module) -> Encoder:
    """Hidden states in fp32, whatever the model computes in."""

    def run(batch: Batch) -> Tensor:
        with torch.inference_mode():
            return model(**batch).last_hidden_state.float()

    return run


def naive(model: nn.Module) -> nn.Module:
    for name, layer in modules.linear_layers(model).items():
        modules.replace_(model, name, NaiveInt8(layer))  # type: ignore[arg-type]
    return model


def torch_dynamic(model: nn.Module, per_channel: bool) -> nn.Module:
    qconfig = torch.ao.quantization.per_channel_dynamic_qconfig
    chosen: Any = {nn.Linear: qconfig} if per_channel else {nn.Linear}
    return torch.ao.quantization.quantize_dynamic(model, chosen, dtype=torch.qint8)


def torchao(model: nn.Module) -> nn.Module:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from torchao.quantization import quantize_ as torchao_quantize_

    torchao_quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def onnx_encoders(model: nn.Module, batch: Batch, folder: Path) -> dict[str, Encoder]:
    """ONNX Runtime in fp32, and in int8 with its dynamic quantization, weights per channel."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    full, small = str(folder / "fp32.onnx"), str(folder / "int8.onnx")
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        Plain().eval(),
        tuple(batch[n] for n in names),
        full,
        input_names=names,
        output_names=["y"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    quantize_dynamic(full, small, per_channel=True, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3

    def session(path: str) -> Encoder:
        run = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        taken = [i.name for i in run.get_inputs()]
        return lambda x: torch.from_numpy(run.run(None, {n: x[n].numpy() for n in taken})[0])

    return {"ONNX Runtime fp32": session(full), "ONNX Runtime int8": session(small)}


def inputs(tokenizer: Any, model: nn.Module) -> tuple[Batch, Batch]:
    """32 x 128 random tokens, and 32 long documents of the same size; no padding in either."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (32, 128), generator=draw)
    texts = [p.document for p in data.retrieval_pairs("test") if len(p.document.split()) > 150][:32]
    encoded = tokenizer(texts, max_length=128, truncation=True, padding="max_length", return_tensors="pt")
    text = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, text


def candidates(model: nn.Module, batch: Batch, folder: Path, compiled: bool = True) -> dict[str, Encoder]:
    """What is measured, by name; what is not installed, or cannot be built here, is named and left out."""

    def new() -> nn.Module:
        return copy.deepcopy(model)

    def ours(half: bool = False, symmetric: bool = False) -> nn.Module:
        small = quantize_(new(), Int8Dynamic(symmetric))
        return small.bfloat16() if half else small

    makers: dict[str, Callable[[], nn.Module]] = {
        "fp32 eager": new,
        "bf16 eager": lambda: new().bfloat16(),
        "torch quantize_dynamic": lambda: torch_dynamic(new(), False),
        "torch quantize_dynamic, channels": lambda: torch_dynamic(new(), True),
        "naive _int_mm eager": lambda: naive(new()),
        "our Int8Weights (fp32 products)": lambda: quantize_(new(), Int8Weights()),
        "ours eager": ours,
        "ours eager, symmetric": lambda: ours(symmetric=True),
        "ours eager, rest in bf16": lambda: ours(True),
        "ours eager, symmetric, rest in bf16": lambda: ours(True, True),
    }
    if importlib.util.find_spec("torchao"):
        makers["torchao int8 dynamic eager"] = lambda: torchao(new())
    found = {name: encoder(make()) for name, make in makers.items()}
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
        found |= onnx_encoders(new(), batch, folder)
    if compiled and any(shutil.which(c) for c in ("c++", "g++", "clang++", "cl")):
        for name, make in {
            "fp32 compiled": new,
            "bf16 compiled": lambda: new().bfloat16(),
            "naive _int_mm compiled": lambda: naive(new()),
            "ours compiled": ours,
            "ours compiled, symmetric": lambda: ours(symmetric=True),
            "ours compiled, rest in bf16": lambda: ours(True),
        }.items():
            found[name] = encoder(torch.compile(make(), fullgraph=True, dynamic=False))  # type: ignore[arg-type]
    else:
        print("no C++ compiler on this machine: torch.compile is left out")
    return found


def main(compiled: bool = True, repeats: int = 11) -> None:
    """Print the table, and the goals where the processor has the instruction that they rest on."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    model, tokenizer = models.load_minilm()
    torch._dynamo.config.cache_size_limit = 64
    random, text = inputs(tokenizer, model)
    with tempfile.TemporaryDirectory() as folder:
        found = candidates(model, random, Path(folder), compiled)
        mean = {name: [run(x).mean(1) for x in (random, text)] for name, run in found.items()}
        cosine = {
            name: [
                torch.cosine_similarity(a, b).mean().item()
                for a, b in zip(means, mean["fp32 eager"], strict=True)
            ]
            for name, means in mean.items()
        }
        taken = measure.latency({n: lambda f=f: f(random) for n, f in found.items()}, repeats, warmup=2)
    speed = {name: taken.speedup("fp32 eager", name) for name in found}
    print(
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, product: {integer_path()}"
    )
    print(f"{'all-MiniLM-L6-v2, 32 x 128 tokens':36}{'ms':>8}{'speed':>8}{'cos random':>12}{'cos text':>10}")
    for name in sorted(found, key=lambda n: speed[n]):
        numbers = (
            f"{taken.median(name):8.0f}{speed[name]:7.2f}x{cosine[name][0]:12.4f}{cosine[name][1]:10.4f}"
        )
        print(f"{name:36}{numbers}")
    if integer_path() == "onednn":
        for kind, goal in GOALS.items():
            for name in (n for n in found if n.startswith(kind)):
                verdict = "met" if speed[name] >= goal and cosine[name][0] >= 0.993 else "NOT met"
                print(f"goal of {goal}x at cosine .993, {name}: {verdict}")
    else:
        print("no VNNI on this processor: the goals are not checked")
