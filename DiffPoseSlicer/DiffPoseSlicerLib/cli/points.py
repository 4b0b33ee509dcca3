"""Points in the CT, read from a file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.coordinates import LPS_FROM_RAS, transform_points
from ..geometry.files import numbers, read_json


def read_points(path: str) -> NDArray[np.float64]:
    """Points (n, 3) in RAS mm from `{"points": [[R, A, S], ...]}` or a Slicer markups file (.mrk.json).

    Raises:
        InputError: neither, or not one point.
    """
    data = read_json(path, "points file")
    markups = data.get("markups")
    if isinstance(markups, list) and markups and isinstance(markups[0], dict):
        return _markups(markups[0])
    listed = data.get("points")
    if not isinstance(listed, list) or not listed:
        raise InputError("The points file lacks 'points', a list of at least one [R, A, S] in mm.")
    return np.array([numbers({"points": point}, "points", 3, "points file") for point in listed])


def _markups(markup: dict[str, Any]) -> NDArray[np.float64]:
    controls = markup.get("controlPoints")
    if not isinstance(controls, list) or not controls:
        raise InputError("The markups file holds no control points.")
    points = [numbers(c if isinstance(c, dict) else {}, "position", 3, "markups file") for c in controls]
    world = np.array(points)
    # Slicer writes LPS unless the file says otherwise.
    return world if markup.get("coordinateSystem") in ("RAS", 0) else transform_points(LPS_FROM_RAS, world)
