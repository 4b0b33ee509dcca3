"""After a poor registration: would the image fit if it had been stored mirrored or turned in another way?

Ways are told apart by the agreement of all pixels: a wrong pose may hide most of an image and correlate well in the
rest. Of 48 simulated fluoroscopies of two chests (a third each with scatter and noise alone, with display curves, with
instruments and collimators; measured once, no command prints it) the 45 whose pose was found as they were stored agreed
to 0.925 to 0.988; all of them mirrored, or mirrored and turned, to 0.871 to 0.920. So nothing is tried, and no time
spent, from 0.925 on.
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
POOR = 0.925
_GLANCE = PLAN[:2]


def orientation_warnings(
    registrar: Registrar,
    xrays: Sequence[XrayImage],
    candidates: Array,
    relative: Sequence[Array],
    agreements: Sequence[float],
    cancel: Callable[[], bool] | None = None,
) -> tuple[str, ...]:
    """What to tell of images that fit far better when taken to be stored in another way; each is tried alone.

    Args:
        registrar: of the CT.
        xrays, agreements: each view and what its registration reached.
        candidates, relative: as for :meth:`Registrar.register`.
        cancel: asked at every iteration.

    Raises:
        Cancelled: `cancel` said so.
    """
    if registrar.isolated:  # one bone among others never fits so well
        return ()
    notes = []
    for xray, other, reached in zip(xrays, relative, agreements, strict=True):
        if reached >= POOR:
            continue
        starts = other @ candidates

        def agreement(image: XrayImage, starts: Array = starts) -> float:
            return registrar.register([image], starts, cancel=cancel, judged=False).agreements[0]

        def glance(image: XrayImage, starts: Array = starts) -> float:
            return registrar.register([image], starts, plan=_GLANCE, cancel=cancel, judged=False).agreements[0]

        notes.append(try_orientations(xray, agreement, stated=reached, glance=glance).note)
    return tuple(note for note in notes if note)
