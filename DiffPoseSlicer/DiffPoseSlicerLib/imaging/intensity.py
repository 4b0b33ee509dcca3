"""What stored pixel values mean, and their one conversion to attenuation (bone bright, like a line integral).

Transmission I (air bright) becomes -log(I / I0); I0 is the brightest the image shows. Attenuation stays as it is. Which
of the two an image holds is read off the image where nobody says it: whole numbers are mostly detector counts; beside a
body there is less of it than in its middle; bone and metal are thin and stand out from a smooth surrounding. None of
this is certain, so the note says how clear the case was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .attenuation import FloatArray
from .resampling import resample

# Fine structure: what a window of 1/16 of the image smooths away.
_FINE = 16
# Line integrals from air to the densest bone behind a body.
TYPICAL_RANGE = 6.0


@dataclass(frozen=True)
class Conversion:
    """How stored values became attenuation, so that it can be undone.

    Attributes:
        intensity: "transmission" or "attenuation": what the stored values are.
        white: The stored value that means no attenuation (I0 for transmission).
        note: The decision in a sentence for the user.
        slope: Stored values per unit of attenuation where the two are related linearly; None for I = I0 exp(-p).
        mirrored_at: Values were subtracted from this before anything else (proportional to intensity, but reversed).
    """

    intensity: str
    white: float
    note: str
    slope: float | None = None
    mirrored_at: float | None = None

    def to_stored(self, pixels: FloatArray) -> NDArray[Any]:
        """Stored values from attenuation: the reverse of the conversion."""
        values = self.white * np.exp(-pixels) if self.slope is None else self.white + self.slope * pixels
        return values if self.mirrored_at is None else self.mirrored_at - values

    def to_attenuation(self, stored: NDArray[Any]) -> FloatArray:
        """Attenuation from other stored values that mean the same: the next frame of a run."""
        values = np.asarray(stored, np.float32)
        values = values if self.mirrored_at is None else np.float32(self.mirrored_at) - values
        if self.slope is not None:
            return (values - np.float32(self.white)) / np.float32(self.slope)
        floor = max(self.white * 1e-6, 0.5 if np.asarray(stored).dtype.kind in "iu" else 0.0)
        return np.log(np.float32(self.white) / np.maximum(values, np.float32(floor)))


def smoothed(image: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """The mean over a (2 radius + 1) square window, edges repeated."""
    for axis in (0, 1):
        padded = np.concatenate([np.repeat(image.take([0], axis), radius + 1, axis), image,
                                 np.repeat(image.take([-1], axis), radius, axis)], axis)  # fmt: skip
        total = np.cumsum(padded, axis, dtype=float)
        n, width = image.shape[axis], 2 * radius + 1
        image = (total.take(np.arange(width, n + width), axis) - total.take(np.arange(n), axis)) / width
    return image


def ranked(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Each valid pixel's rank, 0..1, ties sharing their mean; 0.5 elsewhere. Blind to any monotonic mapping."""
    _, inverse, counts = np.unique(image[valid], return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - counts / 2) / counts.sum()
    result = np.full(image.shape, 0.5)
    result[valid] = rank[inverse.reshape(-1)]
    return result


def evidence_of_attenuation(stored: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """(fine structure, edge against middle), each in -1..1: positive speaks for attenuation, negative for transmission.

    Works on ranks of a coarse image: an unknown monotonic mapping changes nothing and reversing it changes the signs.
    """
    rows, columns = stored.shape
    factor = max(1, -(-max(rows, columns) // 256))
    image, valid = resample(stored, -(-rows // factor), -(-columns // factor), mask)
    valid = np.ones(image.shape, bool) if valid is None else valid
    if valid.sum() < 64:
        return 0.0, 0.0
    image = ranked(image, valid)
    radius = max(2, round(min(image.shape) / _FINE))
    weight = smoothed(valid.astype(float), radius)
    middle_of = 0.5 + smoothed(image - 0.5, radius) / np.maximum(weight, 1e-9)
    near = max(1, radius // 4)
    fine = (smoothed(image, near) - middle_of)[valid & (smoothed(valid.astype(float), near) > 0.999)]
    if fine.size < 64:
        return 0.0, 0.0
    spread = np.sqrt((fine**2).mean()) + 1e-9
    skewness = float(np.tanh((fine**3).mean() / spread**3))
    v, u = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j]
    distance = np.maximum(abs(u), abs(v))
    edge, middle = image[valid & (distance > 0.85)], image[valid & (distance < 0.5)]
    contrast = float(middle.mean() - edge.mean()) if edge.size > 16 and middle.size > 16 else 0.0
    return skewness, contrast


def decide(stored: NDArray[Any], mask: NDArray[np.bool_] | None = None, dark_surround: bool = False) -> tuple[str, str]:
    """("transmission" or "attenuation", why) for an image nobody has told about.

    dark_surround: the field is surrounded by blank dark: where nothing comes through, transmission is dark.
    """
    skewness, contrast = evidence_of_attenuation(stored, mask)
    low, high = float(stored.min()), float(stored.max())
    if stored.dtype.kind == "f" and low >= -0.5 and 1.5 < high < 60:
        prior, why = 0.5, f"its values, {low:.3g} to {high:.3g}, look like line integrals"
    elif stored.dtype.kind == "f":
        prior, why = 0.0, "its values do not tell"
    else:
        prior, why = -0.4, "whole numbers are mostly detector counts"
    if dark_surround:
        prior, why = prior - 0.6, f"{why}, its blank surround is dark"
    score = prior + 2 * contrast + 0.5 * skewness
    kind = "attenuation" if score > 0 else "transmission"
    middle = "brighter" if contrast > 0 else "darker"
    clear = "" if abs(score) > 0.3 else "; this is not clear-cut: state the intensity in the C-arm file to be sure"
    return kind, f"{why} and its middle is {middle} than its edges{clear}"


def to_attenuation(
    stored: NDArray[Any],
    intensity: str | None,
    why: str = "it was stated",
    mask: NDArray[np.bool_] | None = None,
    dark_surround: bool = False,
) -> tuple[FloatArray, Conversion]:
    """Attenuation [row, column], float32, and how it came about.

    Args:
        stored: Finite pixel values.
        intensity: "transmission", "attenuation" or None (decided from the image).
        why: Who says so, for the note.
        mask: Pixels that count.
        dark_surround: See :func:`decide`.
    """
    if intensity is None:
        intensity, why = decide(stored, mask, dark_surround)
    note = f"Treated as {intensity} because {why}."
    if intensity == "attenuation":
        return np.asarray(stored, np.float32), Conversion(intensity, 0.0, note, 1.0)
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


def from_processed(stored: NDArray[Any], intensity: str, note: str) -> tuple[FloatArray, Conversion]:
    """Attenuation from values that are a logarithm of the intensity, or were processed for display.

    Their scale is unknown: the image's range is brought to that of a typical body's line integrals. A further logarithm
    would only exaggerate what is dark.
    """
    values = np.asarray(stored, np.float32)
    low, high = (float(x) for x in np.percentile(values, [0.1, 99.9]))
    scale = max(high - low, 1e-6) / TYPICAL_RANGE
    white, slope = (high, -scale) if intensity == "transmission" else (low, scale)
    return ((values - white) / slope).astype(np.float32), Conversion(intensity, white, note, slope)
