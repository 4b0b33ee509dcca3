"""A run of several frames: where the CT lay for each registered frame, in a sequence along with the run's browser."""

from __future__ import annotations

from typing import Any

import slicer

from ..geometry.se3 import Array
from .fluoroscopy import browser_of
from .nodes import helper, referenced, vtk_matrix

PLACES = "places"


def keep_place(fluoroscopy: Any, transform: Any) -> Any:
    """Note where "CT to C-arm" lies for the frame that is shown. The sequence of places; None for a single image.

    Whoever browses to a frame that has been registered sees the CT where it lay then; for the others it stays.
    """
    browser, frames = browser_of(fluoroscopy)
    if browser is None:
        return None
    places = _places(frames)
    places.SetDataNodeAtValue(transform, frames.GetNthIndexValue(browser.GetSelectedItemNumber()))
    _synchronise(browser, places, transform)
    return places


def keep_places(fluoroscopy: Any, transform: Any, matrices: dict[int, Array]) -> None:
    """Note where "CT to C-arm" lies (its matrix to its parent, 4x4) for frames by number, whichever is shown."""
    browser, frames = browser_of(fluoroscopy)
    places = _places(frames)
    for number, matrix in matrices.items():
        place = slicer.vtkMRMLLinearTransformNode()
        place.Copy(transform)  # name and attributes: the browser hands them on to the transform along with the place
        place.SetMatrixTransformToParent(vtk_matrix(matrix))
        places.SetDataNodeAtValue(place, frames.GetNthIndexValue(number))
    _synchronise(browser, places, transform)


def _places(frames: Any) -> Any:
    """The sequence of places beside a run's frames; made on first need."""
    places = referenced(frames, PLACES)
    if places is None:
        places = helper(frames, PLACES, "vtkMRMLSequenceNode", "CT to C-arm by frame")
        places.SetIndexName(frames.GetIndexName())
        places.SetIndexUnit(frames.GetIndexUnit())
        places.SetIndexType(frames.GetIndexType())
    return places


def _synchronise(browser: Any, places: Any, transform: Any) -> None:
    """Let the browser move the transform along with the frames."""
    if not browser.IsSynchronizedSequenceNode(places):
        browser.AddSynchronizedSequenceNode(places)
        browser.SetMissingItemMode(places, browser.MissingItemIgnore)
        browser.SetSaveChanges(places, False)
        browser.SetOverwriteProxyName(places, False)
    if browser.GetProxyNode(places) is not transform:
        browser.AddProxyNode(transform, places, False)


def forget_place(fluoroscopy: Any) -> None:
    """The frame that is shown is no longer registered."""
    browser, frames = browser_of(fluoroscopy)
    places = referenced(frames, PLACES) if browser is not None else None
    if places is not None:
        places.RemoveDataNodeAtValue(frames.GetNthIndexValue(browser.GetSelectedItemNumber()))
