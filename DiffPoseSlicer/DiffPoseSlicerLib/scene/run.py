"""A run of several frames: where the CT lay for each registered frame, in a sequence along with the run's browser."""

from __future__ import annotations

from typing import Any

from .fluoroscopy import browser_of
from .nodes import helper, referenced

PLACES = "places"


def keep_place(fluoroscopy: Any, transform: Any) -> Any:
    """Note where "CT to C-arm" lies for the frame that is shown. The sequence of places; None for a single image.

    Whoever browses to a frame that has been registered sees the CT where it lay then; for the others it stays.
    """
    browser, frames = browser_of(fluoroscopy)
    if browser is None:
        return None
    places = referenced(frames, PLACES)
    if places is None:
        places = helper(frames, PLACES, "vtkMRMLSequenceNode", "CT to C-arm by frame")
        places.SetIndexName(frames.GetIndexName())
        places.SetIndexUnit(frames.GetIndexUnit())
        places.SetIndexType(frames.GetIndexType())
    places.SetDataNodeAtValue(transform, frames.GetNthIndexValue(browser.GetSelectedItemNumber()))
    if not browser.IsSynchronizedSequenceNode(places):
        browser.AddSynchronizedSequenceNode(places)
        browser.SetMissingItemMode(places, browser.MissingItemIgnore)
        browser.SetSaveChanges(places, False)
        browser.SetOverwriteProxyName(places, False)
    if browser.GetProxyNode(places) is not transform:
        browser.AddProxyNode(transform, places, False)
    return places


def forget_place(fluoroscopy: Any) -> None:
    """The frame that is shown is no longer registered."""
    browser, frames = browser_of(fluoroscopy)
    places = referenced(frames, PLACES) if browser is not None else None
    if places is not None:
        places.RemoveDataNodeAtValue(frames.GetNthIndexValue(browser.GetSelectedItemNumber()))
