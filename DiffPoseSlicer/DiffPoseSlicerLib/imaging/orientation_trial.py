"""Whether an image was stored mirrored or turned in another way than its file says: found by trying all eight.

A mirrored image fits no pose at all, so the ways differ clearly once each is compared at its best; the comparison
itself (render, register, score) is the caller's. Nothing is ever changed: what was found is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .xray import XrayImage

Way = tuple[bool, int]  # mirrored, rotation: as in CArm
# Another way must beat the stated one by this much agreement to be believed, and be this good in itself.
MARGIN, GOOD = 0.02, 0.93
# A way that also turns the image must beat one that does not by this: a turn can be a rotation about the beam instead.
_TURN_COST = 0.006
# How many ways that look best at a glance are compared properly.
_PROMISING = 2


@dataclass(frozen=True)
class OrientationTrial:
    """What came of trying.

    Attributes:
        xray: The image as it fits best; the one given unless another way is clearly better.
        scores: Agreement of each way compared properly, by (mirrored, rotation).
        note: What was found and what to do, for the user; "" where nothing speaks against the stated way.
    """

    xray: XrayImage
    scores: dict[Way, float]
    note: str


def try_orientations(
    xray: XrayImage,
    agreement: Callable[[XrayImage], float],
    *,
    stated: float | None = None,
    glance: Callable[[XrayImage], float] | None = None,
) -> OrientationTrial:
    """Compare an image in all ways it may have been stored.

    Args:
        xray: As read.
        agreement: Of an image with the CT at the best pose found for it; see `registration.similarity.Terms.score`.
        stated: The agreement of `xray` itself, where it is known.
        glance: A quicker, rougher agreement; given one, only the two ways it likes best are compared properly.
    """
    given = (xray.carm.mirrored, xray.carm.rotation)

    def preference(scores: dict[Way, float]) -> list[Way]:
        return sorted(scores, key=lambda way: _TURN_COST * (way[1] != given[1]) - scores[way])

    images = {(m, r): xray.reoriented(m, r) for m in (False, True) for r in (0, 90, 180, 270) if (m, r) != given}
    if glance is not None:
        rough = {way: glance(image) for way, image in images.items()}
        images = {way: images[way] for way in preference(rough)[:_PROMISING]}
    scores = {given: float(agreement(xray)) if stated is None else float(stated)}
    scores |= {way: float(agreement(image)) for way, image in images.items()}
    best = preference(scores)[0]
    if scores[best] <= scores[given] + MARGIN or scores[best] < GOOD:
        return OrientationTrial(xray, scores, "")
    words = [] if best[0] == given[0] else ["mirrored left to right"]
    turn = (best[1] - given[1]) % 360
    words += [f"turned by {turn} degrees"] if turn else []
    note = (
        f"The image{f' {xray.name}' if xray.name else ''} seems {' and '.join(words)} against what its file says: so "
        f"it agrees with the CT to {scores[best]:.3f}, as it is to {scores[given]:.3f}. Nothing was changed: "
        f"check it, and register it as {way_text(best)} (mirrored {str(best[0]).lower()}, rotation {best[1]})."
    )
    return OrientationTrial(images[best], scores, note)


def way_text(way: Way) -> str:
    """A way in the words of the command line: plain or mirrored, and the turn after a colon where there is one."""
    return ("mirrored" if way[0] else "plain") + (f":{way[1]}" if way[1] else "")
