"""Following a run of frames, and structures that move on their own: what the logic does beside registering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import slicer
import vtk
from vtkmodules.util.numpy_support import vtk_to_numpy

from ..errors import InputError
from ..geometry.se3 import inverse
from . import fluoroscopy, placement, run
from .fluoroscopy import browser_of, need_carm, record
from .nodes import array_matrix, get_data, helper, set_data
from .placing import SceneCArm
from .task import Steps, Task

TRACK = "track"
LOST = "lost"


class Following(SceneCArm):
    """The part of the logic for runs and for several structures. Arguments: see :class:`~.work.SceneWork`."""

    def _begin(self, task: Task, ct: Any, nodes: list[Any], start: Any) -> Steps:
        """What the engine is told to start from: the logic's own."""
        raise NotImplementedError

    def track(
        self,
        ct: Any,
        node: Any,
        start: Any = "auto",
        *,
        first: int | None = None,
        last: int | None = None,
        structure: tuple[Any, str] | None = None,
        blocking: bool = True,
        on_frame: Callable[[dict[str, Any]], None] | None = None,
        on_done: Callable[[dict[str, Any]], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Any:
        """Follow the CT through a run of frames; the CT moves along, and lies right in each frame from then on.

        Args:
            ct: The CT volume node.
            node: The fluoroscopy: the current frame of a sequence.
            start: Of the first frame, as for :meth:`~.logic.SceneLogic.register`.
            first, last: Frames, counted from 0, both inclusive; default from the one shown to the end.
            structure: (segmentation node, segment ID) to follow alone; default the whole CT.
            blocking: Wait and return the result; else return a :class:`~.task.Task` at once.
            on_frame: Called with {"frame", "cameraToRAS", "similarity", "state", "trust", "seconds"}.
            on_done, on_error: Called with the result, or with what went wrong.

        Returns:
            {"frames": [...]}, or the task. The frames that are done stay where a run is stopped.

        Raises:
            InputError, Cancelled, EngineError: where blocking.

        Example: ``[frame["state"] for frame in logic.track(ct, node)["frames"]]``
        """
        task = Task("track", on_done, on_error)
        return self._start(task, self._track(task, ct, node, start, first, last, structure, on_frame), blocking)

    def tracked(self, node: Any) -> list[dict[str, Any]]:
        """What is known of the frames of a run that were followed: "frame", "state", "similarity", "seconds" each."""
        return get_data(record(node), TRACK) or []

    def register_structures(
        self,
        ct: Any,
        nodes: Any,
        structures: Mapping[str, tuple[Any, str]],
        start: Any = "current",
        *,
        jointly: bool = True,
        blocking: bool = True,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        on_done: Callable[[dict[str, Any]], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Any:
        """Find the pose of each of several structures of a CT; each gets a transform node of its own.

        Args:
            ct: The CT volume node.
            nodes: A fluoroscopy node, or several of the same moment.
            structures: (segmentation node, segment ID) by a name of your choice.
            start: As for :meth:`~.logic.SceneLogic.register`; what has to be found is found with the whole CT.
            jointly: Whether they explain the images together, or each is registered by itself.
            blocking, on_progress, on_done, on_error: As for :meth:`~.logic.SceneLogic.register`.

        Returns:
            {name: the content of its result.json}, or the task. The CT itself stays; transform nodes "NAME to C-arm"
            carry models and segments of a structure to where it lies.

        Raises:
            InputError, Cancelled, EngineError: where blocking.

        Example: ``logic.register_structures(ct, node, {"L4": (segmentation, "L4"), "L5": (segmentation, "L5")})``
        """
        nodes = list(nodes) if isinstance(nodes, (list, tuple)) else [nodes]
        task = Task("register", on_done, on_error)
        return self._start(task, self._structures(task, ct, nodes, structures, start, jointly, on_progress), blocking)

    def relation(self, nodes: list[Any], start: Any) -> dict[str, Any]:
        """What a request says of how the views lie to each other, where its start does not: as their C-arms stand."""
        if len(nodes) < 2 or (isinstance(start, dict) and "poses" in start):
            return {}
        poses = [c0 for c0 in map(self.c0, nodes) if c0 is not None]
        return {"relative": [(inverse(c0) @ poses[0]).tolist() for c0 in poses[1:]]}

    def _track(
        self,
        task: Task,
        ct: Any,
        node: Any,
        start: Any,
        first: int | None,
        last: int | None,
        structure: tuple[Any, str] | None,
        on_frame: Callable[[dict[str, Any]], None] | None,
    ) -> Steps:
        carm = need_carm(node)
        browser, frames = browser_of(node)
        if browser is None:
            raise InputError(f"'{node.GetName()}' is a single image: choose a run of several frames to follow.")
        count = frames.GetNumberOfDataNodes()
        begin = browser.GetSelectedItemNumber() if first is None else first
        end = count - 1 if last is None else last
        if not 0 <= begin <= end < count:
            raise InputError(f"The run has no frames {begin} to {end}: choose from 0 to {count - 1}.")
        if self.c0(node) is None:
            self.place_carm(ct, node)
        c0 = self.c0(node)
        assert c0 is not None
        transform = placement.insert_transform(ct)
        placement.attach_companions(ct, transform)
        loaded = yield from self._load(task, ct)
        where, _ = yield from self._begin(task, ct, [node], start)
        view = self.view(node)
        params = {
            "ct": loaded.key,
            "carm": carm.to_json(),
            "start": where,
            "view": view["view"],
            "lao_rao": view["laoRao"],
            "cran_caud": view["cranCaud"],
            "device": self.device,
        }
        if isinstance(where, dict) and "model" in where:
            params["model"] = where["model"]  # the client loads it again into a new worker
        files = []
        if structure is not None:
            params["structures"] = [labels_of("structure", *structure)]
        for number in range(begin, end + 1):
            files.append(self.client.arrays.save(np.array(fluoroscopy.stored_pixels(frames.GetNthDataNode(number)))))
            yield
        done: list[dict[str, Any]] = []
        places: dict[int, Any] = {}

        def progress(step: dict[str, Any]) -> None:
            step = step | {"frame": begin + step["frame"]}
            done.append(step)
            if transform.GetScene() is None:  # the scene was closed meanwhile
                task.cancel()
                return
            place = placement.transform_from_pose(np.array(step["cameraToRAS"], float), c0)
            if step["state"] != LOST:
                places[step["frame"]] = placement.local_matrix(transform, place)
            self.live.show(transform, place)
            if on_frame:
                on_frame(step)

        try:
            yield from task.ask(self.client, "track", params | {"frames": files}, progress)
        finally:
            self.live.flush(now=True)
            for file in files:
                self.client.arrays.remove(file)
            if transform.GetScene() is not None and places:
                run.keep_places(node, transform, places)
                kept = {step["frame"]: step for step in self.tracked(node)} | {step["frame"]: step for step in done}
                brief = ("frame", "state", "similarity", "seconds")
                set_data(record(node), TRACK, [{key: kept[n][key] for key in brief} for n in sorted(kept)])
                shown = places.get(browser.GetSelectedItemNumber())
                if shown is not None:
                    placement.set_local_matrix(transform, shown)
        return {"frames": done}

    def _structures(self, task: Task, ct: Any, nodes: list[Any], structures: Mapping[str, tuple[Any, str]], start: Any,
                    jointly: bool, on_progress: Callable[[dict[str, Any]], None] | None) -> Steps:  # fmt: skip
        if not nodes or not structures:
            raise InputError("There is nothing to register: choose a fluoroscopy and a segment.")
        for node in nodes:
            need_carm(node)
            self.c0(node) is not None or self.place_carm(ct, node)
        transform = placement.insert_transform(ct)
        placement.attach_companions(ct, transform)
        loaded = yield from self._load(task, ct)
        where, _ = yield from self._begin(task, ct, nodes, start)
        view, c0 = self.view(nodes[0]), self.c0(nodes[0])
        assert c0 is not None
        items = []
        for name, part in structures.items():
            items.append(labels_of(name, *part))
            yield
        params = {
            "ct": loaded.key,
            "xrays": [
                {"pixels": np.array(fluoroscopy.stored_pixels(n)), "carm": need_carm(n).to_json()} for n in nodes
            ],
            "start": where,
            "structures": items,
            "jointly": jointly,
            "view": view["view"],
            "lao_rao": view["laoRao"],
            "cran_caud": view["cranCaud"],
            "device": self.device,
        }
        if isinstance(where, dict) and "model" in where:
            params["model"] = where["model"]
        params |= self.relation(nodes, where)
        result = yield from task.ask(self.client, "register", params, on_progress)
        found = {}
        for entry in result["structures"]:
            name = entry.pop("structure")
            place = placement.transform_from_pose(np.array(entry["views"][0]["cameraToRAS"], float), c0)
            found[name] = entry | {"c0": c0.tolist(), "ctToWorld": place.tolist()}
            own = helper(ct, f"structure.{name}", "vtkMRMLLinearTransformNode", f"{name} to C-arm", hidden=False)
            placement.set_ct_to_world(own, place)
        return found


def labels_of(name: str, segmentation: Any, segment: str) -> dict[str, Any]:
    """A segment as the engine takes it: its labels, and where they lie in the placed frame.

    Raises:
        InputError: there is no such segment, or nothing in it.
    """
    shape = segmentation.GetSegmentation().GetSegment(segment)
    image = slicer.vtkOrientedImageData()
    if shape is None:
        raise InputError(f"'{segmentation.GetName()}' has no segment '{segment}': choose one of its segments.")
    if not segmentation.GetBinaryLabelmapRepresentation(segment, image):
        raise InputError(f"'{segmentation.GetName()}' has no binary labelmap: create one in the module Segmentations.")
    scalars = image.GetPointData().GetScalars()
    if scalars is None:
        raise InputError(f"The segment '{shape.GetName()}' of '{segmentation.GetName()}' is empty.")
    to_world, first = vtk.vtkMatrix4x4(), np.eye(4)
    image.GetImageToWorldMatrix(to_world)
    first[:3, 3] = image.GetExtent()[::2]
    affine = placement.placed_from_node(segmentation) @ array_matrix(to_world) @ first
    # What is handed out holds this segment alone, as ones, also where several share a labelmap.
    labels = np.array(vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1]) > 0, np.uint8)
    return {"name": name, "labels": labels, "affine": affine.tolist(), "label": 1}
