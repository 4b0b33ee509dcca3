"""The module's logic without Qt: a CT node and a fluoroscopy node in, one moving transform node out.

    logic = SceneLogic(slicer.mrmlScene)
    logic.set_geometry(fluoroscopy, CArm(source_to_detector=1020, image_size=(512, 512), pixel_spacing=(0.6, 0.6)))
    result = logic.register(ct, fluoroscopy, start="search")              # blocks; the content of result.json
    task = logic.register(ct, fluoroscopy, start="current", blocking=False, on_done=print)

Work that does not block moves on whenever :meth:`SceneLogic.poll` is called; the panel does so by a timer. Computing
happens in the engine's own process: nothing here imports torch, warp or SimpleITK.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from numpy.typing import ArrayLike

from ..engine.client import EngineClient
from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import VIEWS, Pose, view_rotation
from ..geometry.se3 import Array
from . import carm_nodes, fluoroscopy, placement, prepare, results, surface, upload
from .fluoroscopy import need_carm, record, xray_image
from .live import LivePose
from .nodes import get_data, set_data
from .task import Steps, Task

C0, VIEW = "c0", "view"
Fluoroscopies = Any  # one node or a sequence of nodes


class SceneLogic:
    """Registers fluoroscopies to CTs in a MRML scene.

    Args:
        scene: The scene; default Slicer's.
        client: The engine; default one that runs under this interpreter.
        device: "auto", "cpu" or "cuda:N", for everything that is computed.
    """

    def __init__(self, scene: Any = None, client: EngineClient | None = None, device: str = "auto") -> None:
        self.scene = scene if scene is not None else slicer.mrmlScene
        self.client = client or EngineClient()
        self.device = device
        self.live = LivePose()
        self.tasks: list[Task] = []
        self.models_folder = prepare.models_folder()
        self._loaded: dict[str, upload.Loaded] = {}
        self._polling = False

    # Geometry

    def set_geometry(self, node: Any, carm: CArm, sources: dict[str, str] | None = None) -> None:
        """Store the C-arm's geometry on a fluoroscopy node, where it stays when the scene is saved.

        Example: ``logic.set_geometry(node, CArm(1020.0, (512, 512), (0.6, 0.6)), {"sourceToDetector": "typed"})``

        Raises:
            InputError: the node is no fluoroscopy, or has another size.
        """
        fluoroscopy.set_carm(node, carm, sources)

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

    def show(self, ct: Any, node: Any) -> Any:
        """Show a fluoroscopy on its detector, with source and beam, where the C-arm stands. The detector's node.

        Raises:
            InputError: as :meth:`place_carm`.
        """
        c0 = self.c0(node)
        if c0 is None:
            c0 = self.place_carm(ct, node)
        image = xray_image(node)
        return carm_nodes.show_detector(record(node), image.pixels, image.carm, c0, inverted=_inverted(image))

    # Poses

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

    def set_pose(self, ct: Any, node: Any, pose: Pose | ArrayLike) -> None:
        """Move the CT so that the scene shows a pose of the C-arm."""
        c0 = self.c0(node)
        if c0 is None:
            c0 = self.place_carm(ct, node)
        matrix = _matrix(pose)
        transform = placement.insert_transform(ct)
        self.live.show(transform, placement.transform_from_pose(matrix, c0), now=True)

    # Work

    def load_ct(self, ct: Any, *, blocking: bool = True, on_done: Callable[[Any], None] | None = None,
                on_error: Callable[[Exception], None] | None = None) -> Any:  # fmt: skip
        """Hand a CT to the engine ahead of its first use. What the engine says of it (upload.Loaded), or the task."""
        task = Task("load", on_done, on_error)
        return self._start(task, self._load(task, ct), blocking)

    def register(
        self,
        ct: Any,
        nodes: Fluoroscopies,
        start: Any = "auto",
        *,
        rotation: Sequence[float] | None = None,
        translation: Sequence[float] | None = None,
        blocking: bool = True,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        on_done: Callable[[dict[str, Any]], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Any:
        """Find the pose of one or several fluoroscopies; the CT's transform node follows while it is found.

        Args:
            ct: The CT volume node.
            nodes: A fluoroscopy node, or several of the same moment, registered jointly.
            start: "auto" (a prepared model where there is one, else "search"), "search", "view" (the nominal pose),
                "current" (from where the CT lies now), a model's folder, or a pose (Pose or 4x4 cameraToRAS; a list of
                them for several nodes).
            rotation, translation: Half-ranges of a search, degrees and mm in camera axes (right, down, depth).
            blocking: Wait and return the result; else return a :class:`~.task.Task` at once.
            on_progress: Called with {"iteration", "level", "cameraToRAS", "similarity", "seconds"}.
            on_done, on_error: Called with the result, or with what went wrong.

        Returns:
            The content of result.json (a dict), or the task.

        Raises:
            InputError, Cancelled, EngineError: where blocking.

        Example: ``logic.register(ct, node, start="search")["trust"]["reasons"]``
        """
        nodes = list(nodes) if isinstance(nodes, (list, tuple)) else [nodes]
        task = Task("register", on_done, on_error)
        options = {"rotation": rotation, "translation": translation}
        options = {key: [float(x) for x in value] for key, value in options.items() if value is not None}
        return self._start(task, self._register(task, ct, nodes, start, options, on_progress), blocking)

    def pretrain(
        self,
        ct: Any,
        node: Any,
        *,
        view: str | None = None,
        lao_rao: float | None = None,
        cran_caud: float | None = None,
        rotation: Sequence[float] = (30.0, 30.0, 30.0),
        translation: Sequence[float] = (50.0, 50.0, 100.0),
        preset: str = "quick",
        python: str | None = None,
        blocking: bool = True,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        on_done: Callable[[Path], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Any:
        """Prepare a patient: train a model of this CT's X-rays in a process of its own, which outlives this one.

        The same order again goes on with what there is of it. Not blocking, it ends once the training has started;
        watch its folder with ``prepare.jobs.read_status``.

        Args:
            ct: The CT volume node.
            node: The fluoroscopy whose geometry and view are meant; or, before there is one, a CArm.
            view, lao_rao, cran_caud: Another view than the node's.
            rotation, translation: Half-ranges about the view, degrees and mm in camera axes (right, down, depth).
            preset: "quick", "standard" or "thorough".
            python: The interpreter that trains; default this one.
            blocking: Wait until the training has ended.
            on_progress: Called with the contents of status.json while blocking.
            on_done, on_error: As for :meth:`register`.

        Returns:
            The job's folder, which :meth:`register` takes as `start`; or the task.

        Raises:
            InputError: where blocking; also when the training failed.

        Example: ``logic.register(ct, node, start=logic.pretrain(ct, node, preset="quick"))``
        """
        carm = node if isinstance(node, CArm) else need_carm(node)
        given = {"view": view, "laoRao": lao_rao, "cranCaud": cran_caud}
        wanted = {"view": "AP", "laoRao": 0.0, "cranCaud": 0.0} if isinstance(node, CArm) else self.view(node)
        wanted |= {key: value for key, value in given.items() if value is not None}
        task = Task("pretrain", on_done, on_error)
        steps = self._pretrain(task, ct, carm, wanted, rotation, translation, preset, python, on_progress, blocking)
        return self._start(task, steps, blocking)

    def models(self, ct: Any = None) -> list[prepare.Prepared]:
        """What is prepared on this computer: for a CT the engine holds, or (None) for every CT; the latest first."""
        if ct is None:
            return prepare.find(self.models_folder)
        loaded = self.loaded(ct)
        return [] if loaded is None else prepare.find(self.models_folder, loaded.key)

    def prepared(self, ct: Any, node: Any) -> prepare.Prepared | None:
        """The model that "auto" starts from: of this CT, for about this view and C-arm; or None."""
        return prepare.best(self.models(ct), need_carm(node), self.view(node))

    def render(
        self,
        ct: Any,
        node: Any,
        pose: Pose | ArrayLike | None = None,
        *,
        pixels: int | None = None,
        blocking: bool = True,
        on_done: Callable[[Any], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Any:
        """Render the synthetic X-ray for a pose (default: the one the scene shows) onto the detector. Its node.

        Args:
            ct, node: The CT and the fluoroscopy whose C-arm is meant.
            pose: Pose or 4x4 cameraToRAS.
            pixels: Most pixels along a side; the image is enlarged to the fluoroscopy's size. Default: all.
            blocking, on_done, on_error: As for :meth:`register`.

        Example: ``slicer.util.arrayFromVolume(logic.render(ct, node))[0]``
        """
        task = Task("render", on_done, on_error)
        return self._start(task, self._render(task, ct, node, pose, pixels), blocking)

    # What becomes of a result

    def result(self, node: Any, ct: Any = None) -> dict[str, Any] | None:
        """The last result of a fluoroscopy: the content of result.json, or None."""
        return results.get_result(node, ct)

    def accept(self, ct: Any, node: Any) -> None:
        """Take the result as it is; Undo no longer goes behind it. Raises InputError where there is none."""
        results.accept(node, ct)

    def undo(self, ct: Any, node: Any) -> bool:
        """Put the CT back where it lay before the last registration. Whether there was something to undo."""
        self.live.drop()
        return results.undo(node, ct) is not None

    def export(self, ct: Any, node: Any, path: str | os.PathLike[str]) -> None:
        """Write the result (.json) or the transform (.h5, .tfm). Raises InputError."""
        results.export(node, ct, path)

    # Keeping going

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self.tasks) or self.client.busy

    def poll(self) -> bool:
        """Move everything on a little: at most some 20 ms. Call it often while it returns True."""
        if self._polling:  # a callback that lets Slicer process events gets here again
            return True
        self._polling = True
        try:
            self.client.poll()
            for task in list(self.tasks):
                task.advance()
                if not task.running and task in self.tasks:
                    self.tasks.remove(task)
            waiting = self.live.flush()
        finally:
            self._polling = False
        return waiting or self.busy

    def wait(self, task: Task) -> Any:
        """Wait for a task; its result, or its error raised."""
        try:
            while task.running:
                self.poll()
                if task.running:
                    self.idle()
        except BaseException:
            task.cancel()
            raise
        self.live.flush(now=True)
        if task.error is not None:
            raise task.error
        return task.result

    def idle(self) -> None:
        """What a waiting call does between two polls."""
        time.sleep(0.003)

    def forget_scene(self) -> None:
        """The scene closes: end all work and forget its nodes."""
        self.live.drop()
        for task in self.tasks:
            task.cancel()
        for loaded in self._loaded.values():
            self._discard(loaded)
        self._loaded.clear()

    def restart_engine(self) -> None:
        """End the engine's process and all its work; the next request starts it anew."""
        for task in self.tasks:
            task.cancel()
        self._loaded.clear()  # the slabs go with the client's folder
        self.client.close()
        self.poll()

    def close(self) -> None:
        """End all work and the engine."""
        self.forget_scene()
        self.client.close()
        self.poll()

    # The rest is the machinery.

    def _start(self, task: Task, steps: Steps, blocking: bool) -> Any:
        self.tasks.append(task.begin(steps))
        return self.wait(task) if blocking else task

    def _load(self, task: Task, ct: Any) -> Steps:
        stamp = upload.ct_stamp(ct) if upload.ct_array(ct) is not None else ()
        loaded = self._loaded.get(ct.GetID())
        if loaded is None or loaded.stamp != stamp:
            if loaded is not None:
                self._discard(self._loaded.pop(ct.GetID()))
            loaded = yield from upload.upload(task, self.client, ct)
            self._loaded[ct.GetID()] = loaded
            yield
            surface.show_surface(ct, loaded)
        return loaded

    def _discard(self, loaded: upload.Loaded) -> None:
        for file in loaded.files:
            self.client.arrays.remove(file)

    def loaded(self, ct: Any) -> upload.Loaded | None:
        """What the engine holds of a CT, where that is what the node now shows."""
        loaded = self._loaded.get(ct.GetID()) if ct is not None else None
        return loaded if loaded is not None and loaded.stamp == upload.ct_stamp(ct) else None

    def _register(self, task: Task, ct: Any, nodes: list[Any], start: Any, options: dict[str, Any],
                  on_progress: Callable[[dict[str, Any]], None] | None) -> Steps:  # fmt: skip
        if not nodes:
            raise InputError("No fluoroscopy is chosen: choose one in step Images.")
        upload.ct_array(ct)
        for node in nodes:
            need_carm(node)
            self.c0(node) is not None or self.place_carm(ct, node)
        transform = placement.insert_transform(ct)
        placement.attach_companions(ct, transform)
        first = nodes[0]
        loaded = yield from self._load(task, ct)
        begin, word = yield from self._begin(task, ct, nodes, start)
        view = self.view(first)
        xrays = [{"pixels": np.array(fluoroscopy.stored_pixels(n)), "carm": need_carm(n).to_json()} for n in nodes]
        yield
        c0 = self.c0(first)
        assert c0 is not None
        results.remember_place(transform)
        history: list[dict[str, Any]] = []

        def progress(step: dict[str, Any]) -> None:
            history.append(step)
            if transform.GetScene() is None:  # the scene was closed meanwhile
                task.cancel()
                return
            self.live.show(transform, placement.transform_from_pose(np.array(step["cameraToRAS"], float), c0))
            if on_progress:
                on_progress(step)

        params = options | {
            "ct": loaded.key,
            "xrays": xrays,
            "start": begin,
            "view": view["view"],
            "lao_rao": view["laoRao"],
            "cran_caud": view["cranCaud"],
            "device": self.device,
        }
        if isinstance(begin, dict) and "model" in begin:
            params["model"] = begin["model"]  # the client loads it again into a new worker
        try:
            result = yield from task.ask(self.client, "register", params, progress)
        except Exception:
            # A half-found pose is nobody's result: back to where the CT lay.
            self.live.drop()
            if transform.GetScene() is not None:
                before = get_data(transform, results.BEFORE)
                self.live.show(transform, np.array(before, float), now=True)
                set_data(transform, results.BEFORE, None)
            raise
        pose = np.array(result["views"][0]["cameraToRAS"], float)
        final = placement.transform_from_pose(pose, c0)
        # The scene's C-arm stands at c0, which is what the result is stated for here.
        result |= {"c0": c0.tolist(), "ctToWorld": final.tolist(), "start": word or result.get("start", "")}
        self.live.show(transform, final, now=True)
        for node, found in zip(nodes[1:], result["views"][1:], strict=True):
            set_data(record(node), C0, (final @ np.array(found["cameraToRAS"], float)).tolist())
        results.keep_result(first, ct, result, history)
        return result

    def _begin(self, task: Task, ct: Any, nodes: list[Any], start: Any) -> Steps:
        """What the engine is told to start from, and the word for it in the result ("" for the engine's own)."""
        if isinstance(start, str) and start == "current":
            poses = [self.pose(ct, node) for node in nodes]
            return {"poses": {"views": [pose.to_json() for pose in poses]}}, "current"
        if isinstance(start, str) and start == "auto":
            model = self.prepared(ct, nodes[0]) if len(nodes) == 1 else None
            start = "search" if model is None else model.folder
        if isinstance(start, str) and start == "view":
            start = [self.c0(node) for node in nodes]
        if isinstance(start, str) and start == "search":
            return "search", ""
        if isinstance(start, (str, os.PathLike)):
            answer = yield from task.ask(self.client, "load_model", {"folder": os.fspath(start)})
            return {"model": answer["model"]}, ""
        poses = list(start) if isinstance(start, (list, tuple)) and not _is_matrix(start) else [start]
        return {"poses": {"views": [{"cameraToRAS": _matrix(pose).tolist()} for pose in poses]}}, ""

    def _pretrain(self, task: Task, ct: Any, carm: CArm, view: dict[str, Any], rotation: Sequence[float],
                  translation: Sequence[float], name: str, python: str | None,
                  on_progress: Callable[[dict[str, Any]], None] | None, wait: bool) -> Steps:  # fmt: skip
        loaded = yield from self._load(task, ct)
        order = prepare.Task(
            carm=carm,
            view=view["view"],
            lao_rao=view["laoRao"],
            cran_caud=view["cranCaud"],
            center=tuple(loaded.center.tolist()),
            rotation=tuple(map(float, rotation)),  # type: ignore[arg-type]
            translation=tuple(map(float, translation)),  # type: ignore[arg-type]
        )
        folder = prepare.job_folder(self.models_folder, loaded.key, order, name)
        job = yield from prepare.make_job(folder, ct, loaded, order, name, self.device)
        if not prepare.jobs.is_running(job.folder):
            prepare.jobs.start_detached(job.folder, python)
        if wait:
            status = yield from prepare.watch(job.folder, on_progress)
            if status.get("state") == "failed":
                raise InputError(str(status.get("message") or "The preparation failed; its log.txt says more."))
        return job.folder

    def _render(self, task: Task, ct: Any, node: Any, pose: Any, pixels: int | None) -> Steps:
        carm = need_carm(node)
        wanted = self.pose(ct, node).camera_to_ras if pose is None else _matrix(pose)
        loaded = yield from self._load(task, ct)
        small = carm
        longest = max(carm.image_size)
        if pixels is not None and longest > pixels:
            rows, columns = (max(2, round(n * pixels / longest)) for n in carm.image_size)
            small = carm.resized((rows, columns))
        answer = yield from task.ask(
            self.client,
            "render",
            {
                "ct": loaded.key,
                "carm": small.to_json(),
                "pose": {"cameraToRAS": wanted.tolist()},
                "device": self.device,
            },
        )
        c0 = self.c0(node)
        assert c0 is not None
        return carm_nodes.show_drr(record(node), answer["image"], small, c0, inverted=_shown_inverted(node))


def _inverted(image: Any) -> bool:
    return image.carm.intensity == "transmission"


def _shown_inverted(node: Any) -> bool:
    """Whether the fluoroscopy is shown with bone dark."""
    detector = carm_nodes.referenced(record(node), carm_nodes.DETECTOR)
    display = detector.GetDisplayNode() if detector is not None else None
    return display is not None and "Inverted" in (display.GetColorNodeID() or "")


def _is_matrix(value: Any) -> bool:
    try:
        return np.shape(value) == (4, 4)
    except ValueError:
        return False


def _matrix(pose: Pose | ArrayLike) -> Array:
    return (pose if isinstance(pose, Pose) else Pose(np.asarray(pose, float))).camera_to_ras
