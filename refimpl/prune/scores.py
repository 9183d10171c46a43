"""Scores of groups (neurons, heads): from the weights alone, and from what calibration data shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from refimpl.checks import check_int, check_tensor

__all__ = ["output_scores", "weight_scores"]


def weight_scores(inner: Sequence[torch.Tensor], outer: torch.Tensor, width: int = 1) -> torch.Tensor:
    """s_g = ‖W_out[:, g]‖_F · Π_k ‖W_k[g, :]‖_F, the product of a group's norms.

    Scaling a ReLU neuron's rows by c and its columns by 1/c leaves the function as it is; the product
    does not change either, as a sum of norms would.

    Args:
        inner: matrices ``[groups · width, in]`` that make the groups' features.
        outer: ``[out, groups · width]``, the matrix that reads them.
        width: features of a group, consecutive (1 for neurons, the head size for heads).

    Returns:
        ``[groups]``, fp32 at least.

    Raises:
        TypeError, ValueError: matrices that are not finite or do not fit each other and ``width``.
    """
    groups = _groups(outer, width)
    scores = _wide(outer).square().sum(0).reshape(groups, width).sum(1).sqrt()
    if not inner:
        raise ValueError("inner: got none; takes at least one matrix")
    for matrix in inner:
        check_tensor("inner", matrix, shape=(outer.shape[1], None), floating=True, finite=True)
        scores = scores * _wide(matrix).square().sum(1).reshape(groups, width).sum(1).sqrt()
    return scores


def output_scores(outer: torch.Tensor, second_moment: torch.Tensor, width: int = 1) -> torch.Tensor:
    """s_g = ‖X_g W_gᵀ‖_F, the norm of what a group adds to the layer's output over the calibration rows.

    With W_g = W[:, g] and G = XᵀX this is sqrt(tr(W_g G_gg W_gᵀ)); for one feature ‖X_j‖₂ · ‖W_:j‖₂.

    Args:
        outer: ``[out, groups · width]``.
        second_moment: G ``[in, in]``, or only its diagonal Σ_n x_n² ``[in]`` when ``width`` is 1.
        width: features of a group.

    Returns:
        ``[groups]``, fp32 at least.

    Raises:
        TypeError, ValueError: tensors that are not finite or do not fit each other and ``width``.
    """
    groups = _groups(outer, width)
    features = outer.shape[1]
    check_tensor("second_moment", second_moment, ndim=(1, 2), floating=True, finite=True)
    check_tensor("second_moment", second_moment, shape=(features,) * second_moment.ndim)
    weight, moment = _wide(outer).to(second_moment.device), _wide(second_moment)
    if second_moment.ndim == 1 or width == 1:
        if width > 1:
            raise ValueError(f"second_moment: got its diagonal with width={width}; takes [in, in]")
        diagonal = moment if moment.ndim == 1 else moment.diagonal()
        return (weight.square().sum(0) * diagonal).sqrt()
    grouped = weight.reshape(-1, groups, width).transpose(0, 1).to(moment.dtype)  # (O, G·w) -> (G, O, w)
    blocks = torch.stack(
        [moment[i : i + width, i : i + width] for i in range(0, features, width)]
    )  # (G, w, w)
    return ((grouped @ blocks) * grouped).sum((1, 2)).clamp_min(0).sqrt()


def _groups(outer: torch.Tensor, width: int) -> int:
    check_tensor("outer", outer, ndim=2, floating=True, finite=True)
    check_int("width", width, 1)
    if outer.shape[1] % width:
        raise ValueError(f"width: got {width}; takes a divisor of the {outer.shape[1]} columns of outer")
    return outer.shape[1] // width


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.detach().float() if x.dtype in (torch.float16, torch.bfloat16) else x.detach()
