"""The C-arm of a fluoroscopy in the scene: its geometry, its view, where it stands, the pose the scene shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.carm import CArm
from ..geometry.pose import VIEWS, Pose, view_rotation
from ..geometry.se3 import Array
from . import carm_nodes, dicom, fluoroscopy, placement, results, upload
from .fluoroscopy import need_carm, record, shown_image
from .nodes import get_data, set_data
from .task import Steps, Task, finish
from .work import SceneWork

C0, VIEW = "c0", "view"


class SceneCArm(SceneWork):
    """Geometry and poses."""

    def set_geometry(self, node: Any, carm: CArm, sources: dict[str, str] | None = None) -> None:
        """Store the C-arm's geometry on a fluoroscopy node, where it stays when the scene is saved.

        Example: ``logic.set_geometry(node, CArm(1020.0, (512, 512), (0.6, 0.6)), {"sourceToDetector": "typed"})``

        Raises:
            InputError: the node is no fluoroscopy, or has another size.
        """
        fluoroscopy.set_carm(node, carm, sources)

    def read_geometry(
        self,
        node: Any,
        *,
        blocking: bool = True,
        on_done: Callable[[dicom.Stated], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Any:
        """Take a fluoroscopy's geometry and view from the DICOM file it was loaded from. What the file states.

        Where the file lacks something that is needed, nothing is stored and the answer's `missing` names it.

        Example: ``logic.read_geometry(node).notes``

        Raises:
            InputError: the node was not loaded from Slicer's DICOM database, or its file is no X-ray.
        """
        task = Task("geometry", on_done, on_error)
        return self._start(task, self._read_geometry(task, node), blocking)

    def geometry(self, node: Any) -> CArm | None:
        """The geometry stored on a fluoroscopy node, or None."""
        return fluoroscopy.get_carm(node)

    def view(self, node: Any) -> dict[str, Any]:
        """The nominal view of a fluoroscopy: {"view": "AP", "laoRao": degrees, "cranCaud": degrees}."""
        stored = get_data(record(node), VIEW)
        view = stored if isinstance(stored, dict) and stored.get("view") in VIEWS else {}
        return {"view": "AP", "laoRao": 0.0, "cranCaud": 0.0} | view

    def place_carm(
        self, ct: Any, node: Any, view: str | None = None, lao_rao: float | None = None, cran_caud: float | None = None
    ) -> Array:
        """Put the C-arm where a view nominally has it: C0, its cameraToRAS at rest (4x4). What is None stays.

        The CT's centre lies on the central ray. A result that is there keeps its meaning: the CT moves along.

        Example: ``logic.place_carm(ct, node, "LEFT_LATERAL", cran_caud=5)``

        Raises:
            InputError: no CT, no fluoroscopy, or one without geometry; the view does not exist.
        """
        carm = need_carm(node)
        wanted = self.view(node)
        given = {"view": view, "laoRao": lao_rao, "cranCaud": cran_caud}
        wanted |= {key: value for key, value in given.items() if value is not None}
        rotation = view_rotation(wanted["view"], wanted["laoRao"], wanted["cranCaud"])
        c0 = Pose.about(rotation, upload.ct_center(ct), carm).camera_to_ras
        if given != dict.fromkeys(given):
            set_data(record(node), VIEW, wanted)
        set_data(record(node), C0, c0.tolist())
        transform = placement.insert_transform(ct)
        placement.attach_companions(ct, transform)
        result = results.get_result(node, ct)
        if result is not None:
            pose = np.array(result["views"][0]["cameraToRAS"], float)
            self.live.show(transform, placement.transform_from_pose(pose, c0), now=True)
        return c0

    def c0(self, node: Any) -> Array | None:
        """Where the C-arm of a fluoroscopy stands in the scene (cameraToRAS at rest, 4x4), or None."""
        stored = get_data(record(node), C0)
        return None if stored is None else np.array(stored, float)

    def show(
        self,
        ct: Any,
        node: Any,
        *,
        blocking: bool = True,
        on_done: Callable[[Any], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Any:
        """Show a fluoroscopy on its detector, with source and beam, where the C-arm stands. The detector's node.

        Example: ``logic.show(ct, node)``

        Args:
            ct, node: The CT and the fluoroscopy.
            blocking: Do it at once; else return a :class:`~.task.Task`.
            on_done, on_error: Called with the detector's node, or with what went wrong.

        Raises:
            InputError: as :meth:`place_carm`.
        """
        if blocking:
            return finish(self._show(ct, node))
        return self._start(Task("show", on_done, on_error), self._show(ct, node), blocking)

    def _read_geometry(self, task: Task, node: Any) -> Steps:
        answer = yield from task.ask(self.client, "read_geometry", {"path": dicom.need_file(node)})
        found = dicom.stated(answer)
        if node.GetScene() is not None and found.carm is not None:
            self.set_geometry(node, found.carm, found.sources)
            if found.view is not None:
                set_data(record(node), VIEW, found.view)
        return found

    def _show(self, ct: Any, node: Any) -> Steps:
        c0 = self.c0(node)
        if c0 is None:
            c0 = self.place_carm(ct, node)
            yield
        pixels, inverted = yield from shown_image(node)
        yield
        return (yield from carm_nodes.show_detector(record(node), pixels, need_carm(node), c0, inverted=inverted))

    def pose(self, ct: Any, node: Any) -> Pose:
        """The pose of a fluoroscopy's C-arm relative to the CT that the scene shows now.

        It is stated in the CT's coordinates: those of its voxels with the parent transforms it had before.

        Example: ``logic.pose(ct, node).write("pose.json")``

        Raises:
            InputError: as :meth:`place_carm`, or the transform was made not rigid.
        """
        c0 = self.c0(node)
        if c0 is None:
            c0 = self.place_carm(ct, node)
        transform = placement.insert_transform(ct)
        return Pose(placement.pose_from_transform(placement.get_ct_to_world(transform), c0))

    def show_handles(self, ct: Any) -> Any:
        """Show handles in the 3D views that move a CT by hand, about its middle. Its "CT to C-arm" transform.

        Example: ``placement.hide_handles(logic.show_handles(ct))``
        """
        transform = placement.insert_transform(ct)
        placement.show_handles(transform, upload.ct_center(ct))
        return transform

    def set_pose(self, ct: Any, node: Any, pose: Pose | ArrayLike) -> None:
        """Move the CT so that the scene shows a pose of the C-arm."""
        c0 = self.c0(node)
        if c0 is None:
            c0 = self.place_carm(ct, node)
        matrix = as_matrix(pose)
        transform = placement.insert_transform(ct)
        self.live.show(transform, placement.transform_from_pose(matrix, c0), now=True)


def as_matrix(pose: Pose | ArrayLike) -> Array:
    """cameraToRAS (4x4) of a pose or of something like a matrix. Raises InputError where it is not rigid."""
    return (pose if isinstance(pose, Pose) else Pose(np.asarray(pose, float))).camera_to_ras
