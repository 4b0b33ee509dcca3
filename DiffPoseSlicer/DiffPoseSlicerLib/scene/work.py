"""What keeps a scene's work going: the engine, the tasks, the CTs the engine holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import slicer

from ..engine.client import EngineClient
from . import prepare, region, surface, upload
from .live import LivePose
from .task import Steps, Task


class SceneWork:
    """Work in steps that never hold Slicer up: see :meth:`poll`. The base of the module's logic.

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
        self._region: region.Held | None = None
        self._polling = False

    def load_ct(self, ct: Any, *, blocking: bool = True, on_done: Callable[[Any], None] | None = None,
                on_error: Callable[[Exception], None] | None = None) -> Any:  # fmt: skip
        """Hand a CT to the engine ahead of its first use. What the engine says of it (upload.Loaded), or the task."""
        task = Task("load", on_done, on_error)
        return self._start(task, self._load(task, ct), blocking)

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self.tasks) or self.client.busy

    def poll(self) -> bool:
        """Move everything on a little: some 10 ms. Call it often while it returns True."""
        if self._polling:  # a callback that lets Slicer process events gets here again
            return True
        self._polling = True
        try:
            self.client.poll()
            if self.tasks:  # one at a time, in turn
                task = self.tasks.pop(0)
                self.tasks.append(task)
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
        self._forget_region()

    def restart_engine(self) -> None:
        """End the engine's process and all its work; the next request starts it anew."""
        for task in self.tasks:
            task.cancel()
        self._loaded.clear()  # the slabs go with the client's folder
        self._region = None
        self.client.close()
        self.poll()

    def close(self) -> None:
        """End all work and the engine."""
        self.forget_scene()
        self.client.close()
        self.poll()

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
            yield from surface.show_surface(ct, loaded)
            yield
        return loaded

    def _load_region(self, task: Task, ct: Any, part: region.Region) -> Steps:
        """Steps that hand a region of a CT to the engine, where it does not have it; its key."""
        if self._region is None or self._region.stamp != part.stamp(ct):
            self._forget_region()
            self._region = yield from region.load(task, self.client, ct, part)
        return self._region.key

    def _forget_region(self) -> None:
        for file in self._region.files if self._region is not None else ():
            self.client.arrays.remove(file)
        self._region = None

    def _discard(self, loaded: upload.Loaded) -> None:
        for file in loaded.files:
            self.client.arrays.remove(file)

    def loaded(self, ct: Any) -> upload.Loaded | None:
        """What the engine holds of a CT, where that is what the node now shows."""
        loaded = self._loaded.get(ct.GetID()) if ct is not None else None
        return loaded if loaded is not None and loaded.stamp == upload.ct_stamp(ct) else None
