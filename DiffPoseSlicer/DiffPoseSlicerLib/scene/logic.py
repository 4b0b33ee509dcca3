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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import Pose
from ..registration.landmarks import LandmarkPairs
from . import carm_nodes, fluoroscopy, landmarks, placement, prepare, region, results, run, upload
from .fluoroscopy import need_carm, record
from .following import Following
from .nodes import get_data, set_data
from .placing import C0, as_matrix
from .task import Steps, Task

Fluoroscopies = Any  # one node or a sequence of nodes


class SceneLogic(Following):
    """Registers fluoroscopies to CTs in a MRML scene. Arguments: see :class:`~.work.SceneWork`."""

    def register(
        self,
        ct: Any,
        nodes: Fluoroscopies,
        start: Any = "auto",
        *,
        region: Any = None,
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
            start: "auto" (a prepared model where there is one, else "search"), "search" (around the node's view),
                "anywhere" (around AP, PA and both laterals), "view" (the nominal pose), "current" (from where the CT
                lies now), a model's folder, a pose (Pose or 4x4 cameraToRAS; a list of them for several nodes), or
                landmarks: {"landmarks": (points in the CT, the same on the fluoroscopy)}, two markups nodes.
            region: Register one part of the CT: (segmentation node, segment ID), or a region of interest (a box). A
                start that has to be found (model, search) is found with all of the CT.
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
        steps = self._register(task, ct, nodes, start, region, options, on_progress)
        return self._start(task, steps, blocking)

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
        environment: Mapping[str, str] | None = None,
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
            environment: The variables it runs with; default this process's.
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
        steps = self._pretrain(
            task, ct, carm, wanted, rotation, translation, preset, (python, environment), on_progress, blocking
        )
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

    def landmarks(self, ct: Any, node: Any, points: Any, seen: Any) -> LandmarkPairs:
        """The landmarks of two markups nodes, paired: `points` in the CT, `seen` on the fluoroscopy. Raises InputError.

        Example: ``logic.register(ct, node, start={"landmarks": (points, seen)})``
        """
        c0 = self.c0(node)
        return landmarks.pairs(ct, points, seen, need_carm(node), self.place_carm(ct, node) if c0 is None else c0)

    def landmark_errors(self, ct: Any, node: Any, points: Any, seen: Any) -> dict[str, float]:
        """How far each landmark is from where the pose shown puts it, in mm at the patient's depth. InputError."""
        pairs = self.landmarks(ct, node, points, seen)
        return landmarks.errors(pairs, need_carm(node), self.pose(ct, node).camera_to_ras)

    def result(self, node: Any, ct: Any = None) -> dict[str, Any] | None:
        """The last result of a fluoroscopy: the content of result.json, or None."""
        return results.get_result(node, ct)

    def shows_result(self, ct: Any, node: Any, hypothesis: int = 0) -> bool:
        """Whether the CT lies where its result, or another of the poses that fit, has it: not moved since by hand."""
        result = results.get_result(node, ct)
        poses = [] if result is None else [result["views"][0], *result.get("hypotheses", ())[1:]]
        if not 0 <= hypothesis < len(poses):
            return False
        try:
            return bool(np.allclose(self.pose(ct, node).camera_to_ras, poses[hypothesis]["cameraToRAS"], atol=1e-3))
        except InputError:  # no longer rigid
            return False

    def accept(self, ct: Any, node: Any, hypothesis: int = 0) -> None:
        """Take the result as it is, or another of the poses that fit; Undo no longer goes behind it.

        Raises:
            InputError: there is no result, or it is not what is shown.
        """
        if self.result(node, ct) is not None and not self.shows_result(ct, node, hypothesis):
            raise InputError("The CT does not lie where the result put it: register again, or undo.")
        if hypothesis:
            results.take_hypothesis(node, ct, hypothesis)
        results.accept(node, ct)

    def undo(self, ct: Any, node: Any) -> bool:
        """Put the CT back where it lay before the last registration. Whether there was something to undo."""
        self.live.drop()
        undone = results.undo(node, ct) is not None
        if undone:
            run.forget_place(node)
        return undone

    def export(self, ct: Any, node: Any, path: str | os.PathLike[str]) -> None:
        """Write the result (.json) or the transform (.h5, .tfm). Raises InputError."""
        results.export(node, ct, path)

    def report(
        self,
        ct: Any,
        node: Any,
        path: str | os.PathLike[str],
        *,
        patient: str = "",
        blocking: bool = True,
        on_done: Callable[[Path], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Any:
        """Write the last result as one page (HTML) for the patient's file. Its path, or the task.

        Args:
            ct: The CT.
            node: The fluoroscopy, or the list of those that were registered together.
            path: The .html file.
            patient: A name or number to print; without one the page names nobody.
            blocking, on_done, on_error: As for :meth:`register`.

        Raises:
            InputError: where blocking.

        Example: ``logic.report(ct, node, "registration.html")``
        """
        nodes = list(node) if isinstance(node, (list, tuple)) else [node]
        task = Task("report", on_done, on_error)
        return self._start(task, self._report(task, ct, nodes, Path(path), patient), blocking)

    def _report(self, task: Task, ct: Any, nodes: list[Any], path: Path, patient: str) -> Steps:
        result = results.get_result(nodes[0], ct) if nodes else None
        if result is None:
            raise InputError("There is no result to report: register first.")
        loaded = yield from self._load(task, ct)
        params = {
            "ct": loaded.key,
            "xrays": [_stored(node) for node in nodes],
            "result": result,
            "path": str(path.absolute()),
            "patient": patient,
            "device": self.device,
        }
        yield
        yield from task.ask(self.client, "report", params)
        return path

    def _register(self, task: Task, ct: Any, nodes: list[Any], start: Any, part: Any, options: dict[str, Any],
                  on_progress: Callable[[dict[str, Any]], None] | None) -> Steps:  # fmt: skip
        if not nodes:
            raise InputError("No fluoroscopy is chosen: choose one in step Images.")
        upload.ct_array(ct)
        part = region.checked(part)
        for node in nodes:
            need_carm(node)
            self.c0(node) is not None or self.place_carm(ct, node)
        transform = placement.insert_transform(ct)
        placement.attach_companions(ct, transform)
        first = nodes[0]
        loaded = yield from self._load(task, ct)
        begin, word = yield from self._begin(task, ct, nodes, start)
        key = None if part is None else (yield from self._load_region(task, ct, part))
        anywhere = isinstance(start, str) and start == "anywhere"
        view = self.view(first) if not anywhere else {"view": "any", "laoRao": 0.0, "cranCaud": 0.0}
        xrays = [_stored(node) for node in nodes]
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

        params = (
            options
            | self.relation(nodes, begin)
            | {
                "ct": loaded.key,
                "xrays": xrays,
                "start": begin,
                "view": view["view"],
                "lao_rao": view["laoRao"],
                "cran_caud": view["cranCaud"],
                "device": self.device,
            }
        )
        if isinstance(begin, dict) and "model" in begin:
            params["model"] = begin["model"]  # the client loads it again into a new worker
        given = isinstance(begin, dict) and "model" not in begin
        try:
            if key is None or not given:
                result = yield from task.ask(self.client, "register", params, progress)
            if key is not None:
                if not given:  # found with all of the CT: the region starts from there
                    word = f"{result.get('start', '')}, then region"
                    params["start"] = {"poses": {"views": result["views"]}}
                params.pop("model", None)
                if anywhere:  # the view is known now
                    params.pop("view")
                params["ct"] = key
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
        run.keep_place(first, transform)
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
        if isinstance(start, str) and start in ("search", "anywhere"):
            return "search", ""
        if isinstance(start, (str, os.PathLike)):
            answer = yield from task.ask(self.client, "load_model", {"folder": os.fspath(start)})
            return {"model": answer["model"]}, ""
        if isinstance(start, dict) and set(start) == {"landmarks"}:
            return landmarks.to_start(self.landmarks(ct, nodes[0], *start["landmarks"])), "landmarks"
        poses = list(start) if isinstance(start, (list, tuple)) and not _is_matrix(start) else [start]
        return {"poses": {"views": [{"cameraToRAS": as_matrix(pose).tolist()} for pose in poses]}}, ""

    def _pretrain(self, task: Task, ct: Any, carm: CArm, view: dict[str, Any], rotation: Sequence[float],
                  translation: Sequence[float], name: str, program: tuple[str | None, Mapping[str, str] | None],
                  on_progress: Callable[[dict[str, Any]], None] | None, wait: bool) -> Steps:  # fmt: skip
        loaded = yield from self._load(task, ct)
        order = prepare.order(
            carm,
            loaded,
            view=view["view"],
            lao_rao=view["laoRao"],
            cran_caud=view["cranCaud"],
            rotation=rotation,
            translation=translation,
        )
        folder = prepare.job_folder(self.models_folder, loaded.key, order, name)
        job = yield from prepare.make_job(folder, ct, loaded, order, name, self.device)
        while prepare.is_ending(job.folder):
            yield
        since = 0.0
        if not prepare.jobs.is_running(job.folder):
            prepare.jobs.start_detached(job.folder, *program)
            since = time.time()
        if wait:
            status = yield from prepare.watch(job.folder, since, on_progress)
            if status.get("state") == "failed":
                raise InputError(str(status.get("message") or "The preparation failed; its log.txt says more."))
        return job.folder

    def _render(self, task: Task, ct: Any, node: Any, pose: Any, pixels: int | None) -> Steps:
        carm = need_carm(node)
        wanted = self.pose(ct, node).camera_to_ras if pose is None else as_matrix(pose)
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


def _shown_inverted(node: Any) -> bool:
    """Whether the fluoroscopy is shown with bone dark."""
    detector = carm_nodes.referenced(record(node), carm_nodes.DETECTOR)
    display = detector.GetDisplayNode() if detector is not None else None
    return display is not None and "Inverted" in (display.GetColorNodeID() or "")


def _stored(node: Any) -> dict[str, Any]:
    """A fluoroscopy as the engine takes it."""
    return {"pixels": np.array(fluoroscopy.stored_pixels(node)), "carm": need_carm(node).to_json()}


def _is_matrix(value: Any) -> bool:
    try:
        return np.shape(value) == (4, 4)
    except ValueError:
        return False
