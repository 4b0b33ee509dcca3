"""From signs to a verdict: the probability that a registration succeeded, an error bound in mm, and reasons in words.

The model is a score card: each sign has a curve that only rises, the curves' values are added, and a logistic function
of the sum is the probability of failure. Worse signs can therefore never make a result more trusted. The curves, the
bound's weights and the threshold are data (trust.json), fitted by `Testing/run.py bench trust` to simulated successes
and failures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .result import Trust

if TYPE_CHECKING:
    from ..imaging.ct import CTVolume

# Signs span orders of magnitude: their logarithms are used, of values no smaller than this.
_LEAST = 1e-3
# The part of an image that shows what the CT holds: no success of the calibration had less, and nothing is known there.
_LEAST_SEEN = 0.08
CALIBRATION = Path(__file__).with_name("trust.json")


def limit_mm(ct: CTVolume) -> float:
    """What counts as success for a CT, as mean error of the region's points: 1 mm, more where its voxels are coarse."""
    return max(1.0, 2 / 3 * float(np.prod(ct.spacing)) ** (1 / 3))


@dataclass(frozen=True)
class Model:
    """A fitted score card.

    Attributes:
        millimetres: signs that are lengths: they are divided by the limit of success.
        curves: sign -> (knots, heights) of a curve over its logarithm, both rising.
        intercept: log odds of failure where every curve is at 0.
        threshold: lowest probability of success that is trusted.
        bound: sign -> exponent of the error bound, exp(bound_intercept) * product of signs ** exponents.
        provenance: what it was fitted to, and how.
    """

    millimetres: tuple[str, ...]
    curves: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    intercept: float
    threshold: float
    bound: Mapping[str, float]
    bound_intercept: float
    provenance: Mapping[str, Any]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Model:
        """From what trust.json holds. Raises ValueError where a curve falls."""
        curves = {name: (tuple(c["knots"]), tuple(c["heights"])) for name, c in data["curves"].items()}
        for name, (knots, heights) in curves.items():
            if len(knots) != len(heights) or min(np.diff(knots)) <= 0 or min(np.diff(heights)) < 0:
                raise ValueError(f"The curve of {name!r} does not rise.")
        if min(data["bound"].values()) < 0:
            raise ValueError("The bound falls with a sign.")
        return cls(
            tuple(data["millimetres"]),
            curves,
            float(data["intercept"]),
            float(data["threshold"]),
            dict(data["bound"]),
            float(data["boundIntercept"]),
            dict(data["provenance"]),
        )

    def to_json(self) -> dict[str, Any]:
        """The content of trust.json."""
        return {
            "millimetres": list(self.millimetres),
            "curves": {name: {"knots": list(k), "heights": list(h)} for name, (k, h) in self.curves.items()},
            "intercept": self.intercept,
            "threshold": self.threshold,
            "bound": dict(self.bound),
            "boundIntercept": self.bound_intercept,
            "provenance": dict(self.provenance),
        }

    def log_signs(self, signs: Mapping[str, float], limit: float) -> dict[str, float]:
        """Logarithms of signs, lengths as parts of the limit."""
        return {
            name: float(np.log(max(value / (limit if name in self.millimetres else 1.0), _LEAST)))
            for name, value in signs.items()
        }

    def probability(self, signs: Mapping[str, float], limit: float = 1.0) -> float:
        """Of success, meaning an error of the region's points below `limit` mm."""
        if np.prod([max(1 - signs[name], 0.0) for name in ("masked", "cut", "air")]) < _LEAST_SEEN:
            return 0.0
        return self.likelihood(signs, limit)

    def likelihood(self, signs: Mapping[str, float], limit: float = 1.0) -> float:
        """What signs tell of success however little is seen: to compare poses by, not to trust."""
        logs = self.log_signs(signs, limit)
        against = self.intercept + sum(float(np.interp(logs[name], *curve)) for name, curve in self.curves.items())
        return float(1 / (1 + np.exp(np.clip(against, -50, 50))))

    def error_mm(self, signs: Mapping[str, float], limit: float = 1.0) -> float:
        """What nine of ten successful registrations with such signs stay below: mean error of the region's points."""
        logs = self.log_signs(signs, limit)
        exponent = self.bound_intercept + sum(weight * logs[name] for name, weight in self.bound.items())
        return float(limit * np.exp(np.clip(exponent, -10, 5)))


@lru_cache(maxsize=1)
def shipped() -> Model:
    """The calibration that comes with the package."""
    return Model.from_json(json.loads(CALIBRATION.read_text(encoding="utf-8")))


# Reasons, as the engine words them; the panel translates these very sentences.
MIRRORED = "this image seems mirrored or turned against what its file says"
VERTEBRA = "two poses about one vertebra apart explain the image equally well: compare the vertebrae by eye"
RIVAL = "another pose explains the image equally well: compare both in the review"
COVERED = "a large part of the image is covered or dark: take the instrument out of the beam or open the collimator"
LITTLE = "the image shows too little of what the CT holds: centre the C-arm on the anatomy, or use a longer CT"
STRANGER = "this CT may be another patient's, or the start was too far off: check the patient, give a nearer start"
BENT = "parts of the image fit in different places: the patient may lie otherwise than in the CT, or be another"
HALVES = "the halves of the image do not agree on one pose"
VAGUE = "the image says too little to be exact: more dose, less scatter or a second view would help"
UNLIKE = "the image differs from the CT more than its noise explains"
STRUCTURE = "one bone alone was registered, for which trust is not calibrated: judge it by eye"


def reasons(signs: Mapping[str, float], limit: float) -> list[str]:
    """Why a result with such signs is not trusted, the most telling first; never empty."""
    found = []
    wrong = signs["misfit"] > 0.12 or signs["neighbour"] > 0.9
    torn = signs["shift"] > 4 and max(signs["broad halves"], signs["halves"]) > 0.3 * limit
    if signs["covered"] > 0.25 or signs["masked"] > 0.65:
        found.append(COVERED)
    # Beyond equally well, the pose that was found is the worse one; a wrong fit everywhere is as good anywhere.
    if signs["neighbour"] > (1.1 if signs["misfit"] > 0.12 else 0.85):
        found.append(VERTEBRA)
    if wrong:
        found.append(STRANGER)
    elif torn:
        found.append(BENT)
    elif signs["rival"] > 0.9 and not found:
        found.append(RIVAL)
    if signs["cut"] > 0.5 or signs["air"] > 0.5:
        found.append(LITTLE)
    if not found and signs["halves"] > 0.3 * limit:
        found.append(HALVES)
    if not found and max(signs["blocks"], signs["curvature"]) > 0.25 * limit:
        found.append(VAGUE)
    return found or [UNLIKE]


def likelihood(signs: Mapping[str, float], ct: CTVolume) -> float:
    """What the signs of a pose tell of its success, to compare poses of one image by (see :meth:`Model.likelihood`)."""
    return shipped().likelihood(signs, limit_mm(ct))


def judge(signs: Mapping[str, float], ct: CTVolume, model: Model | None = None) -> tuple[Trust, float]:
    """The verdict on a registration to a CT from its signs, and its error bound in mm (see :meth:`Model.error_mm`)."""
    model = model or shipped()
    limit = limit_mm(ct)
    probability = model.probability(signs, limit)
    trusted = probability >= model.threshold
    why = () if trusted else tuple(reasons(signs, limit))
    return Trust(trusted, round(probability, 4), why), model.error_mm(signs, limit)
