"""Search without any model: over one view's range, or over those of several where the view is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.pose import Pose
from . import starts
from .descent import DISTINCT_MM, Level, distance_mm
from .result import Hypothesis, RegistrationResult, hypotheses
from .trust import likelihood

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage
    from .register import Registrar

# Starts over a view's range, and of each further look where the result is in doubt.
COUNT, AGAIN = 192, 384
# Probability of success below which more is tried, stricter than what trust asks for: another look costs a second or
# two, a wrong pose that is believed the patient.
_SURE = 0.95
# Further looks follow the basins of the coarsest level on detail: where the CT lacks much of what the image shows,
# whole images lead astray, and edges of bones still tell. At the coarsest level they compare whole images from the
# first look's starts, then quarters, then quarters with misfits that lose their say at once: what leads one astray
# seldom leads the others.
_DETAIL = (
    Level(48, 12, 1.25, 12, 4, tolerance=5e-3, margin=9.0, narrow=(4, 8), detail=4.0, spread=(12, 10.0, 20.0)),
    Level(96, 12, 1.25, 12, 1, narrow=(3, 3), detail=2.0),
    Level(96, 8, 1.25, 0, 1, scatter=2),  # the pose stays, scatter is estimated
)
_BASINS = Level(32, 32, 1.25, 16, 24, tolerance=3e-3, margin=6.0, narrow=(6, 32), robust=False)
_QUARTERS = replace(_BASINS, patch=_BASINS.pixels // 2)
_ROBUST = replace(_QUARTERS, robust=True)
_FURTHER = (((_BASINS, *_DETAIL), COUNT, 0), ((_QUARTERS, *_DETAIL), AGAIN, 0), ((_ROBUST, *_DETAIL), AGAIN, AGAIN))
# Where a model says the pose most likely is, few basins lie, and the right one may rank low at first.
_CLOSE = (
    replace(_ROBUST, narrow=(6, 48)),
    Level(48, 12, 1.25, 12, 8, tolerance=5e-3, margin=4.0, narrow=(5, 4), scatter=4),
    Level(96, 12, 1.25, 8, 2, margin=1.5, narrow=(3, 2), scatter=1),
    Level(96, 8, 1.25, 10, 2),
)
# Poses that lie nearer to each other are one.
_SAME_MM = 3.0
# A pose to look around, and half-ranges about it.
_Place = tuple[Pose, ArrayLike, ArrayLike]
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

    The first look is at one view after the other; further ones follow the basins of all together. A look that comes to
    the same pose from elsewhere is the last one: another would hardly find a better one.

    Args:
        nominals: of each view, one or several.
        rotation, translation: half-ranges per camera axis, degrees and mm.
        budget: seconds for all, or None for as many as it takes.
        known: a result in doubt that was found otherwise: only further looks are taken.
        likely: a pose and half-ranges about it (as `rotation` and `translation`) that the first further look is for.
        settings: for :meth:`Registrar.register`.
    """
    own = None if budget is None else budget / len(nominals)
    everywhere = [(nominal, rotation, translation) for nominal in nominals]

    def look(places: Sequence[_Place], count: int, skip: int, **more: Any) -> RegistrationResult:
        """From `count` starts at each place, all together."""
        around = [
            starts.search(about.ras_to_camera, registrar.center, count, turn, shift, skip)
            for about, turn, shift in places
        ]
        result = registrar.register(xrays, np.concatenate(around), start="search", budget=own, **settings, **more)
        nearest = min(nominals, key=lambda nominal: _apart_mm(nominal, result.pose, registrar.center))
        return replace(result, c0=nearest.camera_to_ras)

    further = [(plan, everywhere, count, skip) for plan, count, skip in _FURTHER]
    if likely:
        further.insert(0, (_CLOSE, [likely], COUNT, 0))
    found = [known] if known else [look([place], COUNT, 0) for place in everywhere]
    likeliest = partial(likeliness, registrar)
    best = max(found, key=likeliest)
    for plan, places, count, skip in further:
        if budget is not None or not in_doubt(registrar, best):
            break
        again = look(places, count, skip, plan=plan)
        found.append(again)
        before, best = best, max(best, again, key=likeliest)
        if _apart_mm(before.pose, again.pose, registrar.center) < _SAME_MM:
            break
    return best if len(found) == 1 else replace(best, hypotheses=_of_all(best, found, registrar.center))


def likeliness(registrar: Registrar, result: RegistrationResult) -> tuple[float, float]:
    """What results of one image are ranked by: what their signs tell of success, then the agreement of all pixels."""
    told = likelihood(result.signs, registrar.ct) if result.signs else 0.0
    return told, result.hypotheses[0].similarity


def in_doubt(registrar: Registrar, result: RegistrationResult) -> bool:
    """Whether more should be tried; a single structure's result cannot be judged."""
    return not registrar.isolated and result.trust.probability < _SURE


def _of_all(best: RegistrationResult, found: Sequence[RegistrationResult], center: ArrayLike) -> list[Hypothesis]:
    """Distinct minima of all looks: of the best one first, then those that agree most."""
    kept = best.hypotheses[:1]
    for one in sorted((h for r in found for h in r.hypotheses), key=lambda h: -h.similarity):
        apart = (_apart_mm(one.pose, other.pose, center) for other in kept)
        if len(kept) < _MOST and all(mm > DISTINCT_MM for mm in apart):
            kept.append(one)
    return hypotheses([(one.pose, one.similarity) for one in kept])


def _apart_mm(a: Pose, b: Pose, center: ArrayLike) -> float:
    return distance_mm(a.ras_to_camera, b.ras_to_camera, np.asarray(center, float))
