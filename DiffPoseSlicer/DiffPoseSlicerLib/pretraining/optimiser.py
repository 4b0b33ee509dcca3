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
# Newton-Schulz iteration with Jordan's coefficients: five rounds bring all singular values near 1.
_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.AdamW):
    """Muon for parameters of four dimensions, torch's AdamW for the others; with `name` "adamw", AdamW for all.

    torch's own Muon (from 2.9 on) takes matrices only, and the oldest torch that is supported has none.

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
        super().__init__(groups, rate, betas=(0.9, 0.99), weight_decay=decay, foreach=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients there are."""
        moved: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is not None:
                    self._muon(parameter, parameter.grad, group["lr"] * MUON_RATE)
                    moved.append((parameter, parameter.grad))
                    parameter.grad = None  # AdamW passes over what has none
        super().step()
        for parameter, gradient in moved:
            parameter.grad = gradient

    def _muon(self, parameter: Tensor, gradient: Tensor, rate: float) -> None:
        # torch's AdamW wants a count of steps in every parameter's state that it loads.
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        step = orthogonal(gradient.lerp(momentum, MOMENTUM).reshape(len(gradient), -1))
        # Tall matrices move fewer inputs than they have outputs: longer steps keep the outputs' change alike.
        stretch = max(1.0, step.shape[0] / step.shape[1]) ** 0.5
        parameter.mul_(1 - rate * MUON_DECAY).add_(step.reshape(parameter.shape), alpha=-rate * stretch)


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
