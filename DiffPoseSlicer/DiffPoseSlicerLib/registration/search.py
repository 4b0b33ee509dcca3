"""Search without any model: over one view's range, or over those of several where the view is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.pose import Pose
from . import starts
from .descent import CAREFUL_PLAN, DISTINCT_MM, distance_mm
from .result import Hypothesis, RegistrationResult, hypotheses

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage
    from .register import Registrar

# Starts over a view's range, and of each further look where the result is in doubt.
COUNT, AGAIN = 192, 384
# Agreement of all pixels (see `similarity.Terms.score`) below which more is tried; so it is where a result is not
# trusted.
_DOUBTFUL = 0.93
# Further looks compare quarters of the image at the coarsest level: what leads the whole image astray seldom leads its
# quarters there too. In the second, misfits lose their say at once, which a partly covered image needs; it loses its
# way more often, so it follows more basins. What led the first astray seldom leads it.
_QUARTERS = replace(CAREFUL_PLAN[0], patch=CAREFUL_PLAN[0].pixels // 2)
_FURTHER = (
    (_QUARTERS, *CAREFUL_PLAN[1:]),
    (replace(_QUARTERS, robust=True, keep=16, narrow=(6, 32)), *CAREFUL_PLAN[1:]),
)
# Where a model says the pose most likely is, few basins lie, and the right one may rank low at first.
_CLOSE = (
    replace(_FURTHER[1][0], keep=24, narrow=(6, 48)),
    replace(CAREFUL_PLAN[1], keep=8, margin=4.0),
    *CAREFUL_PLAN[2:],
)
# Poses that lie nearer to each other are one.
_SAME_MM = 3.0
# The view's nominal pose, a pose to look around, and half-ranges about it.
_Place = tuple[Pose, Pose, ArrayLike, ArrayLike]
# As many distinct minima of several views are reported.
_MOST = 8


def search(
    registrar: Registrar,
    xrays: Sequence[XrayImage],
    nominals: Sequence[Pose],
    rotation: ArrayLike,
    translation: ArrayLike,
    budget: float | None,
    known: RegistrationResult | None = None,
    likely: tuple[Pose, ArrayLike, ArrayLike] | None = None,
    **settings: Any,
) -> RegistrationResult:
    """The best of the searches around each nominal pose, with further looks while it is in doubt and time is given.

    A look that comes to the same pose from elsewhere is the last one: another would hardly find a better one.

    Args:
        nominals: of each view, one or several.
        rotation, translation: half-ranges per camera axis, degrees and mm.
        budget: seconds for all, or None for as many as it takes.
        known: a result in doubt that was found otherwise: only further looks are taken.
        likely: a pose and half-ranges about it (as `rotation` and `translation`) that the first further look is for.
        settings: for :meth:`Registrar.register`.
    """
    own = None if budget is None else budget / len(nominals)
    everywhere = [(nominal, nominal, rotation, translation) for nominal in nominals]

    def look(places: Sequence[_Place], count: int, skip: int, **more: Any) -> list[RegistrationResult]:
        return [
            registrar.register(
                xrays,
                starts.search(about.ras_to_camera, registrar.center, count, turn, shift, skip),
                start="search",
                nominal=nominal,
                budget=own,
                **settings,
                **more,
            )
            for nominal, about, turn, shift in places
        ]

    further = [(plan, everywhere, AGAIN, COUNT + number * AGAIN) for number, plan in enumerate(_FURTHER)]
    if likely:
        further.insert(0, (_CLOSE, [(nominals[0], *likely)], COUNT, 0))
    found = [known] if known else look(everywhere, COUNT, 0)
    best = max(found, key=agreement)
    for plan, places, count, skip in further:
        if budget is not None or not in_doubt(registrar, best):
            break
        new = look(places, count, skip, plan=plan)
        found += new
        before, again = best, max(new, key=agreement)
        best = max(before, again, key=agreement)
        if _apart_mm(before.pose, again.pose, registrar.center) < _SAME_MM:
            break
    return best if len(nominals) == 1 else replace(best, hypotheses=_of_all(found, registrar.center))


def agreement(result: RegistrationResult) -> float:
    """What results are ranked by."""
    return result.hypotheses[0].similarity


def in_doubt(registrar: Registrar, result: RegistrationResult) -> bool:
    """Whether more should be tried; a single structure's result cannot be judged."""
    return not registrar.isolated and (agreement(result) < _DOUBTFUL or not result.trust.trusted)


def _of_all(results: Sequence[RegistrationResult], center: ArrayLike) -> list[Hypothesis]:
    """Distinct minima of all searches, best first."""
    kept: list[Hypothesis] = []
    for one in sorted((h for r in results for h in r.hypotheses), key=lambda h: -h.similarity):
        apart = (_apart_mm(one.pose, other.pose, center) for other in kept)
        if len(kept) < _MOST and all(mm > DISTINCT_MM for mm in apart):
            kept.append(one)
    return hypotheses([(one.pose, one.similarity) for one in kept])


def _apart_mm(a: Pose, b: Pose, center: ArrayLike) -> float:
    return distance_mm(a.ras_to_camera, b.ras_to_camera, np.asarray(center, float))
