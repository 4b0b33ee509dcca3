"""After a poor registration: would the image fit if it had been stored mirrored or turned in another way?

Measured on 42 simulated fluoroscopies of a chest (three views, two fields of view; plain, several disturbances at once,
collimated, with instruments): registered as they were stored, all reached a similarity of 0.90 to 1.00; mirrored, 0.46
to 0.95, two of 168 more than 0.91. So nothing is tried, and no time spent, from 0.9 on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..geometry.se3 import Array
from ..imaging.orientation_trial import try_orientations
from .descent import PLAN

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage
    from .register import Registrar

# A registration that ends below this is poor.
POOR = 0.9
_GLANCE = PLAN[:2]


def orientation_warnings(
    registrar: Registrar,
    xrays: Sequence[XrayImage],
    candidates: Array,
    relative: Sequence[Array],
    similarities: Sequence[float],
    cancel: Callable[[], bool] | None = None,
) -> tuple[str, ...]:
    """What to tell of images that fit far better when taken to be stored in another way; each is tried alone.

    Args:
        registrar: of the CT.
        xrays, similarities: each view and what its registration reached.
        candidates, relative: as for :meth:`Registrar.register`.
        cancel: asked at every iteration.

    Raises:
        Cancelled: `cancel` said so.
    """
    if registrar.isolated:  # one bone among others never fits so well
        return ()
    notes = []
    for xray, other, reached in zip(xrays, relative, similarities, strict=True):
        if reached >= POOR:
            continue
        starts = other @ candidates

        def similarity(image: XrayImage, starts: Array = starts) -> float:
            return registrar.register([image], starts, cancel=cancel, judged=False).similarities[0]

        def glance(image: XrayImage, starts: Array = starts) -> float:
            return registrar.register([image], starts, plan=_GLANCE, cancel=cancel, judged=False).similarities[0]

        notes.append(try_orientations(xray, similarity, stated=reached, glance=glance).note)
    return tuple(note for note in notes if note)
