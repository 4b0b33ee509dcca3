"""The layout "DiffPose": shown while the module is open, the user's own put back when it is left."""

from __future__ import annotations

from typing import Any

import slicer

from ..scene import carm_nodes, views
from ..scene.fluoroscopy import record
from ..scene.nodes import referenced

_DARK, _DARKER = (0.17, 0.19, 0.23), (0.05, 0.06, 0.08)


class Layout:
    """Shows the module's views and what is in them."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._camera: tuple[Any, ...] | None = None
        self._fresh = True

    def enter(self, with_plot: bool = False) -> None:
        """Show the module's layout and remember the user's."""
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        node = manager.layoutLogic().GetLayoutNode()
        views.add_layouts(node)
        now = node.GetViewArrangement()
        if now not in (views.LAYOUT_ID, views.LAYOUT_ID + 1):
            self._before = now
        if self.plot_view() is None:  # made now, not in the middle of the work: it takes Slicer a moment
            node.SetViewArrangement(views.LAYOUT_ID + 1)
        wanted = views.LAYOUT_ID + int(with_plot)
        now = node.GetViewArrangement()
        if now != wanted:
            node.SetViewArrangement(wanted)
        self._dress()

    def leave(self) -> None:
        """Put the user's layout back, unless the user has chosen another one meanwhile."""
        manager = slicer.app.layoutManager()
        if manager is None or self._before is None:
            return
        node = manager.layoutLogic().GetLayoutNode()
        if node.GetViewArrangement() in (views.LAYOUT_ID, views.LAYOUT_ID + 1):
            node.SetViewArrangement(self._before)
        self._before = None

    @property
    def shown(self) -> bool:
        """Whether the module's layout is on the screen."""
        manager = slicer.app.layoutManager()
        return manager is not None and manager.layoutLogic().GetLayoutNode().GetViewArrangement() in (
            views.LAYOUT_ID,
            views.LAYOUT_ID + 1,
        )

    def show(self, fluoroscopy: Any, carm: Any, c0: Any, foreground: Any, opacity: float) -> None:
        """Show a fluoroscopy on its detector, in its slice view and in 3D, with something laid over it."""
        scene = slicer.mrmlScene
        slice_node = views.tagged(scene, "vtkMRMLSliceNode", views.VIEW_XRAY)
        composite = views.composite_of(scene, views.VIEW_XRAY)
        if slice_node is None or composite is None or fluoroscopy is None:
            return
        background = referenced(record(fluoroscopy), carm_nodes.DETECTOR)
        views.show_layers(composite, background, foreground, opacity)
        views.aim_slice(slice_node, carm, c0)
        if not slice_node.GetSliceVisible():
            slice_node.SetSliceVisible(True)
        if self._fresh:
            self._fresh = False
            camera = self.camera()
            if camera is not None:
                views.look_at_scene(camera, carm, c0)

    def look_anew(self) -> None:
        """Aim the 3D view at the C-arm at the next :meth:`show`: other images were chosen."""
        self._fresh = True

    def clear(self) -> None:
        """Show nothing in the slice view."""
        composite = views.composite_of(slicer.mrmlScene, views.VIEW_XRAY)
        if composite is not None:
            views.show_layers(composite, None, None, 0.0)

    def camera(self) -> Any:
        """The camera node of the module's 3D view, or None."""
        scene = slicer.mrmlScene
        return views.camera_of(scene, views.tagged(scene, "vtkMRMLViewNode", views.VIEW_3D))

    def plot_view(self) -> Any:
        """The plot view's node, or None while it is not shown."""
        return views.tagged(slicer.mrmlScene, "vtkMRMLPlotViewNode", views.VIEW_PLOT)

    def look_from_source(self, carm: Any, c0: Any, on: bool) -> None:
        """Look as the C-arm does, or go back to where the camera was before."""
        camera_node = self.camera()
        if camera_node is None:
            return
        camera = camera_node.GetCamera()
        if on:
            if self._camera is None:
                self._camera = (camera.GetPosition(), camera.GetFocalPoint(), camera.GetViewUp(), camera.GetViewAngle())
            views.look_from_source(camera_node, carm, c0)
        elif self._camera is not None:
            views.look(camera_node, *self._camera)
            self._camera = None

    def _dress(self) -> None:
        """The 3D view plain and dark, so that X-rays and bone stand out."""
        view = views.tagged(slicer.mrmlScene, "vtkMRMLViewNode", views.VIEW_3D)
        if view is not None and view.GetAttribute("DiffPoseSlicer.dressed") is None:
            view.SetAttribute("DiffPoseSlicer.dressed", "1")
            view.SetBoxVisible(False)
            view.SetAxisLabelsVisible(False)
            view.SetBackgroundColor(*_DARKER)
            view.SetBackgroundColor2(*_DARK)
