"""What stored pixel values mean, and their one conversion to attenuation (bone bright, like a line integral).

Transmission I (air bright) becomes -log(I / I0); I0 is the brightest the image shows. Attenuation stays as it is. Which
of the two an image holds is read off the image where nobody says it: bone and metal are thin and stand out from a smooth
surrounding, so the fine structure of an attenuation image leans to the bright side and that of a transmission image to
the dark one; and beside or at the edges of a body there is less of it than in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .attenuation import FloatArray


@dataclass(frozen=True)
class Conversion:
    """How stored values became attenuation; `stored = white * exp(-pixels)` or, for attenuation, `pixels` themselves.

    Attributes:
        intensity: "transmission" or "attenuation": what the stored values are.
        white: I0, the stored value that means no attenuation (transmission only, else 0).
        note: The decision in a sentence for the user.
    """

    intensity: str
    white: float
    note: str

    def to_stored(self, pixels: FloatArray) -> FloatArray:
        """Stored values from attenuation: the reverse of the conversion."""
        return self.white * np.exp(-pixels) if self.intensity == "transmission" else pixels


def smoothed(image: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """The mean over a (2 radius + 1) square window, edges repeated."""
    for axis in (0, 1):
        padded = np.concatenate([np.repeat(image.take([0], axis), radius + 1, axis), image,
                                 np.repeat(image.take([-1], axis), radius, axis)], axis)  # fmt: skip
        total = np.cumsum(padded, axis, dtype=float)
        n, width = image.shape[axis], 2 * radius + 1
        image = (total.take(np.arange(width, n + width), axis) - total.take(np.arange(n), axis)) / width
    return image


def evidence_of_attenuation(stored: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """(fine structure, edge against middle), each in -1..1: positive speaks for attenuation, negative for transmission."""
    image = np.asarray(stored, float)
    valid = np.ones(image.shape, bool) if mask is None else mask
    if valid.sum() < 64:
        return 0.0, 0.0
    low, high = np.percentile(image[valid], [0.5, 99.5])
    if high <= low:
        return 0.0, 0.0
    image = np.where(valid, np.clip((image - low) / (high - low), 0, 1), 0.5)
    radius = max(2, round(min(image.shape) / 32))
    fine = (smoothed(image, max(1, radius // 4)) - smoothed(image, radius))[valid]
    spread = np.sqrt((fine**2).mean()) + 1e-9
    skewness = float(np.tanh((fine**3).mean() / spread**3))
    rows, columns = image.shape
    v, u = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    distance = np.maximum(abs(u), abs(v))
    edge, middle = image[valid & (distance > 0.85)], image[valid & (distance < 0.5)]
    contrast = float(np.median(middle) - np.median(edge)) if edge.size > 16 and middle.size > 16 else 0.0
    return skewness, contrast


def decide(stored: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> tuple[str, str]:
    """("transmission" or "attenuation", why) for an image nobody has told about."""
    skewness, contrast = evidence_of_attenuation(stored, mask)
    score = skewness + 2 * contrast
    kind = "attenuation" if score > 0 else "transmission"
    clear = "" if abs(score) > 0.25 else "; this is not clear-cut: state intensity in the C-arm file to be sure"
    middle = "brighter" if contrast > 0 else "darker"
    fine = "bright" if skewness > 0 else "dark"
    return kind, f"its middle is {middle} than its edges and its fine structure stands out {fine}{clear}"


def to_attenuation(
    stored: NDArray[Any], intensity: str | None, why: str = "it was stated", mask: NDArray[np.bool_] | None = None
) -> tuple[FloatArray, Conversion]:
    """Attenuation [row, column], float32, and how it came about.

    Args:
        stored: Finite pixel values.
        intensity: "transmission", "attenuation" or None (decided from the image).
        why: Who says so, for the note.
        mask: Pixels that count.
    """
    if intensity is None:
        intensity, why = decide(stored, mask)
    note = f"Treated as {intensity} because {why}."
    if intensity == "attenuation":
        return np.asarray(stored, np.float32), Conversion(intensity, 0.0, note)
    values = np.asarray(stored, np.float32)
    white = float(np.percentile(values[mask] if mask is not None and mask.any() else values, 99.9))
    if white <= 0:  # a display-processed image around zero: shift it into the positive
        shift = float(values.min())
        values = values - shift + 1
        white = float(values.max())
        note += f" Its values start at {shift:g}: shifted to be positive."
    # Nothing comes through where a counter reads 0; half a count keeps the logarithm finite.
    floor = max(white * 1e-6, 0.5 if np.asarray(stored).dtype.kind in "iu" else 0.0)
    return np.log(white / np.maximum(values, floor)).astype(np.float32), Conversion(intensity, white, note)
