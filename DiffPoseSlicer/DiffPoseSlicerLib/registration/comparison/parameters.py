"""Ways to write a pose as numbers that a first-order optimiser steps on: the paper's ablation of parameterisations.

Each describes how the anatomy is turned and shifted, in camera axes about the centre, from where the start has it.
Parameters come scaled, so that a unit of each moves things about as far as 1 mm does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...geometry.se3 import Array, rigid, se3_exp, so3_exp, so3_log
from ..solver import LEVER_MM


@dataclass(frozen=True)
class Parameterisation:
    """`start`: the parameters of no motion. `motion`: parameters -> (4, 4) motion about the origin."""

    start: Array
    motion: Callable[[Array], Array]

    def twists(self, parameters: Array) -> Array:
        """(6, n): the twist (omega, v) about the moved centre that a unit of each parameter causes at `parameters`."""
        columns = []
        for number in range(len(parameters)):
            step = np.zeros(len(parameters))
            step[number] = 1e-3
            ahead, behind = self.motion(parameters + step), self.motion(parameters - step)
            omega = so3_log(ahead[:3, :3] @ behind[:3, :3].T)
            columns.append(np.concatenate([omega, ahead[:3, 3] - behind[:3, 3]]) / 2e-3)
        return np.array(columns).T


def _euler(p: Array) -> Array:
    x, y, z = p[:3] / LEVER_MM
    return rigid(so3_exp([0, 0, z]) @ so3_exp([0, y, 0]) @ so3_exp([x, 0, 0]), p[3:])


def _quaternion(p: Array) -> Array:
    w, x, y, z = p[:4] / np.linalg.norm(p[:4])
    turn = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return rigid(turn, p[4:])


def _six(p: Array) -> Array:
    """Two columns of the rotation, made orthonormal (Zhou et al. 2019)."""
    first = p[:3] / np.linalg.norm(p[:3])
    second = p[3:6] - (p[3:6] @ first) * first
    second = second / np.linalg.norm(second)
    return rigid(np.stack([first, second, np.cross(first, second)], 1), p[6:])


_LEVERS = np.array([LEVER_MM] * 3 + [1.0] * 3)
PARAMETERISATIONS: dict[str, Parameterisation] = {
    "se3": Parameterisation(np.zeros(6), lambda p: se3_exp(p / _LEVERS)),
    "axis-angle": Parameterisation(np.zeros(6), lambda p: rigid(so3_exp(p[:3] / LEVER_MM), p[3:])),
    "euler": Parameterisation(np.zeros(6), _euler),
    # Half the angle is in the vector part: twice the lever.
    "quaternion": Parameterisation(np.array([2 * LEVER_MM, 0, 0, 0, 0, 0, 0.0]), _quaternion),
    "six": Parameterisation(np.array([LEVER_MM, 0, 0, 0, LEVER_MM, 0, 0, 0, 0.0]), _six),
}
