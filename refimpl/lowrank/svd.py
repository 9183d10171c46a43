"""The best rank-r approximation of a matrix: exact, and by random projection."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from refimpl.checks import check_choice, check_int, check_tensor

__all__ = ["Factors", "truncated_svd"]


class Factors(NamedTuple):
    """The first r singular triples of a matrix: W_r = u · diag(s) · vh."""

    u: torch.Tensor
    """Left singular vectors ``[m, r]``, orthonormal columns."""
    s: torch.Tensor
    """Singular values ``[r]``, the largest first."""
    vh: torch.Tensor
    """Right singular vectors ``[r, n]``, orthonormal rows."""

    def matrix(self) -> torch.Tensor:
        """W_r ``[m, n]``."""
        return (self.u * self.s) @ self.vh

    def balanced(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(up [m, r], down [r, n])`` with up · down = W_r, each holding the square root of s.

        Of all factors with this product these have the smallest ‖up‖_F² + ‖down‖_F², so that neither
        overflows in half precision and both train at the same pace.
        """
        root = self.s.sqrt()
        return self.u * root, root[:, None] * self.vh


@torch.no_grad()
def truncated_svd(
    weight: torch.Tensor,
    rank: int,
    method: Literal["exact", "randomized"] = "exact",
    *,
    oversampling: int = 10,
    power_iterations: int = 4,
    generator: torch.Generator | None = None,
) -> Factors:
    """The first ``rank`` singular values and vectors of ``weight``.

    Their product W_r is the nearest matrix of that rank: min ‖W − A‖_F² over rank(A) ≤ r is
    Σ_{i>r} σ_i², reached at A = W_r (the only one, unless σ_r = σ_{r+1}). Computed in fp32 at least.

    ``exact`` computes all singular values and drops the rest: O(mn·min(m, n)). ``randomized`` finds an
    orthonormal Q whose span nearly holds that of the leading left singular vectors: it multiplies W with a
    random matrix of ``rank + oversampling`` columns, refines that by ``power_iterations`` rounds of W Wᵀ, and
    decomposes the small QᵀW: O(mn·rank). It pays when rank ≪ min(m, n). Each round shrinks what
    is wrongly in the span by (σ_{k+1} / σ_r)² or so, so a slowly falling spectrum needs more of them.

    Args:
        weight: ``[m, n]``, floating point, finite.
        rank: r, from 1 to min(m, n).
        method: as above.
        oversampling: extra columns of the random matrix (cut at min(m, n)).
        power_iterations: rounds of refinement.
        generator: source of the random matrix; when ``None`` a fresh one with seed 0, so that the same
            call gives the same result.

    Returns:
        `Factors`, in fp32 (fp64 for fp64), on the device of ``weight``. Signs are fixed: in each row of
        ``vh`` the first entry of largest magnitude is positive. Equal singular values leave their vectors
        free to rotate among themselves: only the product is then determined.

    Raises:
        TypeError, ValueError: not such a matrix, rank out of bounds, unknown method, negative counts.

    Source: Eckart and Young 1936; Halko, Martinsson, Tropp 2011 (arXiv 0909.4061), algorithms 4.4 and 5.1.
    """
    check_tensor("weight", weight, ndim=2, floating=True, finite=True)
    check_int("rank", rank, 1, min(weight.shape))
    check_choice("method", method, ("exact", "randomized"))
    check_int("oversampling", oversampling, 0)
    check_int("power_iterations", power_iterations, 0)
    a = weight if weight.dtype == torch.float64 else weight.float()
    if method == "exact":
        u, s, vh = torch.linalg.svd(a, full_matrices=False)
    else:
        columns = min(rank + oversampling, *a.shape)
        q = _range(a, columns, power_iterations, generator)  # [m, k]
        small, s, vh = torch.linalg.svd(q.T @ a, full_matrices=False)  # of [k, n]
        u = q @ small
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    signs = vh.gather(1, vh.abs().argmax(1, keepdim=True)).sign()  # [r, 1]; never 0: the rows have length 1
    return Factors((u * signs.T).contiguous(), s.clone(), (vh * signs).contiguous())


def _range(a: torch.Tensor, columns: int, rounds: int, generator: torch.Generator | None) -> torch.Tensor:
    """Orthonormal ``[m, columns]`` that nearly spans the leading left singular vectors of ``a``."""
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    # drawn where the generator lives: a CPU generator gives the same numbers for every device
    omega = torch.randn(a.shape[1], columns, generator=generator, device=generator.device, dtype=a.dtype)
    q = torch.linalg.qr(a @ omega.to(a.device)).Q  # [n, k] -> [m, k]
    for _ in range(rounds):  # orthonormal after every product, or rounding leaves only the first direction
        q = torch.linalg.qr(a.T @ q).Q  # [m, k] -> [n, k]
        q = torch.linalg.qr(a @ q).Q  # [n, k] -> [m, k]
    return q
