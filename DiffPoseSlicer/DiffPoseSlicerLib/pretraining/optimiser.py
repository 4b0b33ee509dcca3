"""The optimiser: Muon for the convolutions, AdamW for everything else.

Muon (Jordan et al., 2024) steps along the momentum's nearest orthogonal matrix, so every direction of a layer learns at
the same speed, however small its gradient. Per step it costs a little more than AdamW and learns a good deal more: see
docs/pretraining.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NAMES = ("muon", "adamw")
# Muon's rate is this many times AdamW's, and its weight decay is its own: its steps have a size of their own.
MUON_RATE, MUON_DECAY, MOMENTUM = 10.0, 0.05, 0.95
BETAS, EPSILON = (0.9, 0.99), 1e-8
# Newton-Schulz iteration with Jordan's coefficients: five rounds bring all singular values near 1.
_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.Optimizer):
    """Muon for parameters of four dimensions, AdamW for the others; with `name` "adamw", AdamW for all.

    Args:
        parameters: The network's.
        rate: AdamW's rate; every group's "lr" may be set to another one at any time, Muon's follows it.
        decay: AdamW's weight decay.
        name: One of :data:`NAMES`.
    """

    def __init__(self, parameters: Iterable[Tensor], rate: float, decay: float, name: str = "muon") -> None:
        if name not in NAMES:
            raise ValueError(f"unknown optimiser {name!r}")
        chosen: dict[bool, list[Tensor]] = {True: [], False: []}
        for parameter in parameters:
            chosen[name == "muon" and parameter.ndim == 4].append(parameter)
        groups = [{"params": kept, "muon": muon} for muon, kept in chosen.items() if kept]
        super().__init__(groups, {"lr": rate, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients there are."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(parameters, group["lr"] * MUON_RATE)
            else:
                self._adamw(parameters, group["lr"], group["decay"])

    def _muon(self, parameters: list[Tensor], rate: float) -> None:
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            momentum = state.setdefault("momentum", torch.zeros_like(parameter))
            momentum.lerp_(gradient, 1 - MOMENTUM)
            ahead = gradient.lerp(momentum, MOMENTUM)
            step = orthogonal(ahead.reshape(len(ahead), -1))
            # Tall matrices move fewer inputs than they have outputs: longer steps keep the outputs' change alike.
            stretch = max(1.0, step.shape[0] / step.shape[1]) ** 0.5
            parameter.mul_(1 - rate * MUON_DECAY).add_(step.reshape(parameter.shape), alpha=-rate * stretch)

    def _adamw(self, parameters: list[Tensor], rate: float, decay: float) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] |= {
                    "step": torch.zeros((), dtype=torch.float32),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[p] for p in parameters]
        if not states:
            return
        for state in states:
            state["step"] += 1
        count = float(states[0]["step"])
        means, squares = [s["mean"] for s in states], [s["square"] for s in states]
        torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
        torch._foreach_mul_(squares, BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETAS[1])
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, (1 - BETAS[1] ** count) ** 0.5)
        torch._foreach_add_(scale, EPSILON)
        torch._foreach_mul_(parameters, 1 - rate * decay)
        torch._foreach_addcdiv_(parameters, means, scale, -rate / (1 - BETAS[0] ** count))


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with the same singular vectors whose singular values all lie near 1 (0.7 to 1.2).

    The iteration runs on the smaller of the two Gram matrices and reaches the matrix itself once, at the end: for
    convolutions, which are far wider than high, that is a third of the work.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).float()
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    product = torch.eye(len(gram), device=gram.device)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        factor = b * gram + c * (gram @ gram)
        factor.diagonal().add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    found = product @ wide
    return found.T if tall else found
