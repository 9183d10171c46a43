"""y = x̂ Ŵᵀ with the sum over k done on integers: quantize the rows of x, multiply bytes, scale the result."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refimpl.checks import check_choice, check_tensor

__all__ = ["int8_linear", "integer_path", "quantize_rows"]

PATHS = ("onednn", "int_mm", "float")
CHUNK = 3 * 2**17  # numbers at once on a CPU, 1.5 MB: the temporaries of a chunk stay in its cache
EXACT = 1024  # products of bytes that an fp32 sum holds exactly: 1024 · 128 · 127 < 2^24


def integer_path(device: torch.device | str = "cpu") -> str:
    """Which integer product serves on this device.

    ``"onednn"``: CPUs with VNNI (bytes times bytes summed in 32 bits by one instruction), on weights packed
    once. ``"int_mm"``: `torch._int_mm` on CUDA. ``"float"``: everywhere else, integers multiplied in fp32,
    exact but not faster. CPUs without VNNI are among these: their byte products are summed in 16 bits, which
    saturate.

    Raises:
        TypeError: neither a device nor a name.
    """
    if not isinstance(device, torch.device | str):
        raise TypeError(f"device: got {type(device).__name__}; takes a torch.device or its name")
    kind = torch.device(device).type
    if kind == "cuda" and hasattr(torch, "_int_mm"):
        return "int_mm"
    return "onednn" if kind == "cpu" and _onednn() else "float"


@torch.compiler.assume_constant_result
def _onednn() -> bool:
    """Whether this processor has VNNI and this torch the product that uses it."""
    vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return bool(vnni()) and hasattr(torch.ops.onednn, "qlinear_prepack")


def pack(weight: Tensor) -> Tensor:
    """int8 ``[out, in]`` in the order that the onednn product reads; good for this process only."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def quantize_rows(x: Tensor, symmetric: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each row of ``x`` on a grid of its own, as int8: ``[rows, in]`` -> q, scale, zero_point.

        symmetric: scale = max |x| / 127, no zero point;
        otherwise: scale = (max − min) / 255 with 0 inside the range, zero_point = −128 − round(min / scale).

    q = round(x · (1/scale)) + zero_point: multiplied by the reciprocal, so that an exact tie may fall the other
    way than in `quantize`. Scale and zero point are fp32 ``[rows, 1]``; a row of zeros has scale 1. Values are not looked at: NaN gives NaN scales.

    Raises:
        TypeError, ValueError: not floating point, or not two dimensions.
    """
    check_tensor("x", x, ndim=2, floating=True)
    if x.dtype != torch.float32:
        x = x.float()
    high, low = (
        x.amax(1, keepdim=True),
        x.amin(1, keepdim=True),
    )  # two passes, yet several times as fast as aminmax
    if symmetric:
        scale = torch.maximum(high, -low) / 127
        scale = torch.where(scale > 0, scale, 1.0)
        return (x * scale.reciprocal()).round_().to(torch.int8), scale, None
    low = low.clamp_(max=0)
    scale = (high.clamp_(min=0) - low) / 255
    scale = torch.where(scale > 0, scale, 1.0)
    zero_point = (low / scale).round_().neg_().sub_(128)
    q = torch.addcmul(zero_point, x, scale.reciprocal()).round_().clamp_(-128, 127)
    return q.to(torch.int8), scale, zero_point


@torch.no_grad()
def int8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    symmetric: bool = False,
    column_sum: Tensor | None = None,
    packed: Tensor | None = None,
    path: str | None = None,
) -> Tensor:
    """x Ŵᵀ + b with x quantized row by row on the fly.

    With x̂ = s_r (q − z_r) and Ŵ = s_o q_w:  y_ro = s_r s_o (Σ_k q_rk q_w,ok − z_r Σ_k q_w,ok) + b_o.

    Args:
        x: ``[rows, in]``, floating point.
        weight, scale: int8 ``[out, in]`` and fp32 ``[out]``.
        bias: ``[out]``, or ``None``.
        symmetric: grids of x without zero points: one pass less, one bit less for one-sided inputs.
        column_sum: s_o Σ_k q_w,ok as fp32 ``[out]``, when it is at hand.
        packed: ``pack(weight)``, when it is at hand.
        path: one of those of `integer_path`; that of the device when ``None``.

    Returns:
        ``[rows, out]`` in the dtype of ``x``.

    Raises:
        TypeError, ValueError: dtypes or shapes that do not fit, an unknown path.
    """
    check_tensor("weight", weight, ndim=2)
    if weight.dtype != torch.int8:
        raise TypeError(f"weight: got dtype {weight.dtype}; takes int8")
    check_tensor("x", x, shape=(None, weight.shape[1]), floating=True)
    check_tensor("scale", scale, shape=(weight.shape[0],), floating=True)
    if path is None:
        path = integer_path(x.device)
    check_choice("path", path, PATHS)
    if column_sum is None and not symmetric:
        column_sum = weight.sum(1, dtype=torch.int32) * scale
    if bias is not None:
        bias = bias.float()
    if path != "onednn" or torch.compiler.is_compiling():
        q, row_scale, zero_point = quantize_rows(x, symmetric)
        y = _product(q, weight, scale, packed, path)  # (rows, out): s_o Σ q q_w
        return _finish(y, row_scale, zero_point, column_sum, bias).to(x.dtype)
    packed = pack(weight) if packed is None else packed
    out = x.new_empty(x.shape[0], weight.shape[0])
    direct = out.dtype == torch.float32  # then the last pass writes to its place
    chunk = max(CHUNK // max(weight.shape), 1)
    for start in range(0, x.shape[0], chunk):
        rows = slice(start, start + chunk)
        q, row_scale, zero_point = quantize_rows(x[rows], symmetric)
        y = _product(q, weight, scale, packed, path)
        finished = _finish(y, row_scale, zero_point, column_sum, bias, out[rows] if direct else y)
        if not direct:
            out[rows] = finished
    return out


def _finish(
    y: Tensor,
    row_scale: Tensor,
    zero_point: Tensor | None,
    column_sum: Tensor | None,
    bias: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """row_scale · (y − zero_point · column_sum) + bias, in ``out``; with ``out``, ``y`` is used up."""
    if zero_point is not None and column_sum is not None:
        y = torch.addcmul(y, zero_point, column_sum, value=-1, out=None if out is None else y)
    if bias is None:
        return torch.mul(y, row_scale, out=out)
    return torch.addcmul(bias, y, row_scale, out=out)


def _product(q: Tensor, weight: Tensor, scale: Tensor, packed: Tensor | None, path: str) -> Tensor:
    """scale_o · Σ_k q_rk w_ok in fp32."""
    if path == "onednn" and torch.compiler.is_compiling():
        path = "int_mm"  # which the compiler fuses with what comes before and after
    if path == "onednn":
        unsigned = q.view(torch.uint8).bitwise_xor(
            128
        )  # q + 128: this product takes signed x only by a slow path
        no_zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
        return torch.ops.onednn.qlinear_pointwise(
            unsigned, 1.0, 128, packed, scale, no_zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
    if path == "int_mm":
        return _int_mm(q, weight) * scale
    if q.shape[1] <= EXACT:
        return (q.float() @ weight.float().T) * scale
    total = torch.zeros(q.shape[0], weight.shape[0], dtype=torch.int32, device=q.device)
    for start in range(0, q.shape[1], EXACT):
        part = slice(start, start + EXACT)
        total += (q[:, part].float() @ weight[:, part].float().T).to(torch.int32)
    return total * scale


def _int_mm(q: Tensor, weight: Tensor) -> Tensor:
    """int32 ``[rows, out]``."""
    if q.device.type != "cuda":
        return torch._int_mm(q, weight.T)
    a, b = padded(q, weight)
    return torch._int_mm(a, b.T)[: q.shape[0], : weight.shape[0]]


def padded(q: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both with zeros added up to what cuBLAS takes: more than 16 rows, other sizes divisible by 8."""
    more_in = -q.shape[1] % 8
    return (
        nn.functional.pad(q, (0, more_in, 0, max(17 - q.shape[0], 0))),
        nn.functional.pad(weight, (0, more_in, 0, -weight.shape[0] % 8)),
    )
