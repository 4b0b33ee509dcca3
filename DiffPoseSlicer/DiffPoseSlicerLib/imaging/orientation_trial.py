"""Whether an image was stored mirrored or turned in another way than its file says: found by trying all eight.

A mirrored image fits no pose at all, so the ways differ clearly once each is compared at its best; the comparison
itself (render, register, score) is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .xray import XrayImage

# Another way must beat the stated one by this much similarity to be believed.
MARGIN = 0.1


@dataclass(frozen=True)
class OrientationTrial:
    """What came of trying.

    Attributes:
        xray: The image as it fits best; the one given unless another way is clearly better.
        scores: Similarity of each way tried, by (mirrored, rotation).
        note: What was found, in a sentence for the user; "" where the stated way is right.
    """

    xray: XrayImage
    scores: dict[tuple[bool, int], float]
    note: str


def try_orientations(
    xray: XrayImage,
    similarity: Callable[[XrayImage], float],
    rotations: tuple[int, ...] = (0, 90, 180, 270),
) -> OrientationTrial:
    """Compare an image in all ways it may have been stored.

    Args:
        xray: As read.
        similarity: Of an image to the CT at the best pose found for it; higher is better.
        rotations: The turns to try, degrees against the stated one; (0,) tries mirroring only.
    """
    stated = (xray.carm.mirrored, xray.carm.rotation)
    images = {stated: xray}
    for turn in rotations:
        for mirrored in (False, True):
            way = (mirrored, (xray.carm.rotation + turn) % 360)
            images.setdefault(way, xray.reoriented(*way))
    scores = {way: float(similarity(image)) for way, image in images.items()}
    best = max(scores, key=lambda way: scores[way])
    if scores[best] <= scores[stated] + MARGIN:
        return OrientationTrial(xray, scores, "")
    words = [] if best[0] == stated[0] else ["mirrored left to right"]
    turn = (best[1] - stated[1]) % 360
    words += [f"turned by {turn} degrees"] if turn else []
    note = (
        f"The image fits much better {' and '.join(words)} than as its file says (similarity {scores[best]:.2f}, not "
        f"{scores[stated]:.2f}): it was stored that way."
    )
    return OrientationTrial(images[best], scores, note)
