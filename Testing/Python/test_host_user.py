"""The test host as a user meets it: mouse, messages, layouts, views, pictures. Runs the same with SLICER_PYTHON set."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

HOST = Path(__file__).resolve().parents[1] / "Host"
sys.path.insert(0, str(HOST))
pytest_plugins = ["slicerhost.pytest_plugin"]


# ----------------------------------------------------------------------------------------------- a user at the machine
def test_a_user_cannot_click_what_is_disabled_or_hidden(host, example) -> None:
    with pytest.raises(host.user.NotReachable, match="applyButton is disabled: Choose a volume"):
        host.user.click(example.ui.applyButton)
    host.user.click(example.ui.inputsButton)
    assert example.ui.inputsButton.collapsed and not example.ui.commentEdit.visible
    with pytest.raises(host.user.NotReachable, match="not visible"):
        host.user.type_text(example.ui.commentEdit, "a")
    host.user.click(example.ui.inputsButton)
    host.user.type_text(example.ui.commentEdit, "a")
    with pytest.raises(host.user.NotReachable, match="no entry"):
        host.user.choose(example.ui.viewCombo, "OBLIQUE")


def test_wait_gives_up(host) -> None:
    with pytest.raises(TimeoutError, match="never"):
        host.user.wait(lambda: False, timeout=0.05, message="never")


def test_message_boxes_are_answered(host, example) -> None:
    import slicer

    host.app.setTestingEnabled(False)
    seen = host.user.answer("Cancel")
    assert slicer.util.confirmOkCancelDisplay("Delete the model?") is False
    assert seen == ["Delete the model?"]
    example._parameterNode.volume = slicer.util.getNode("CT")
    example._parameterNode.count = 13
    seen = host.user.answer("OK")
    host.user.click(example.ui.applyButton)
    assert "13 is refused" in seen[0]
    assert "13 is refused" in host.errors.pop()


def test_mouse_turns_the_camera_and_the_wheel_moves_the_slice(host, example) -> None:
    import slicer

    layouts = slicer.app.layoutManager()
    slicer.util.setSliceViewerLayers(background=slicer.util.getNode("CT"), fit=True)
    view = layouts.threeDWidget(0).threeDView()
    before = np.array(view.cameraNode().GetPosition())
    host.user.drag(view, (100, 100), (180, 130))
    assert np.linalg.norm(np.array(view.cameraNode().GetPosition()) - before) > 1
    red = layouts.sliceWidget("Red")
    offset = red.sliceLogic().GetSliceOffset()
    host.user.wheel(red.sliceView(), 2)
    assert red.sliceLogic().GetSliceOffset() != offset
    host.user.drag_slider(red.sliceOffsetSlider(), 0.0)
    assert red.sliceLogic().GetSliceOffset() < offset


def test_control_points_are_placed_by_mouse(host, example) -> None:
    import slicer
    import vtk

    slicer.util.setSliceViewerLayers(background=slicer.util.getNode("CT"), fit=True)
    widget = slicer.qSlicerSimpleMarkupsWidget()
    widget.setMRMLScene(slicer.mrmlScene)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Landmarks")
    node.CreateDefaultDisplayNodes()
    widget.setCurrentNode(node)
    widget.markupsPlaceWidget().setPlaceModeEnabled(True)
    view = slicer.app.layoutManager().sliceWidget("Red").sliceView()
    host.user.drag(view, (90, 60), (100, 70), steps=3, button=host.user.NO_BUTTON)
    host.user.click(view, host.user.QPoint(100, 70))
    assert node.GetNumberOfDefinedControlPoints() == 1
    position, pixel = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]
    node.GetNthControlPointPositionWorld(0, position)
    inverse = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(view.mrmlSliceNode().GetXYToRAS(), inverse)
    inverse.MultiplyPoint([*position, 1.0], pixel)
    assert abs(pixel[0] - 100) < 2 and abs(view.height - 1 - pixel[1] - 70) < 2  # where the mouse was
    assert not widget.markupsPlaceWidget().placeModeEnabled
    assert widget.tableWidget().rowCount == 1


def test_segment_selector(host) -> None:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
    bone = node.GetSegmentation().AddEmptySegment("bone", "Bone")
    widget = slicer.qMRMLSegmentSelectorWidget()
    widget.setMRMLScene(slicer.mrmlScene)
    chosen: list[str] = []
    widget.connect("currentSegmentChanged(QString)", chosen.append)
    widget.setCurrentNode(node)
    assert widget.currentSegmentID() == "" and widget.segmentIDs() == (bone,)
    node.GetSegmentation().AddEmptySegment("skin", "Skin")
    widget.setCurrentSegmentID("skin")
    assert chosen == ["skin"]
    node.GetSegmentation().RemoveSegment("skin")
    assert chosen == ["skin", ""]


@pytest.mark.parametrize("kind", ["ctkCollapsibleButton", "ctkCollapsibleGroupBox"])
def test_folding_keeps_what_was_hidden(host, kind) -> None:
    import ctk
    import qt

    window = qt.QWidget()
    outer = qt.QVBoxLayout(window)
    box = getattr(ctk, kind)("Step", window)
    outer.addWidget(box)
    layout = qt.QVBoxLayout(box)
    shown, hidden, later = qt.QLabel("shown"), qt.QLabel("hidden"), qt.QLabel("later")
    for label in (shown, hidden, later):
        layout.addWidget(label)
    hidden.hide()
    window.show()
    host.user.process_events()
    tall = box.height
    box.collapsed = True
    host.user.process_events()
    assert not (shown.visible or hidden.visible or later.visible) and box.height < tall
    later.visible = False
    box.collapsed = False
    host.user.process_events()
    assert shown.visible and not hidden.visible and not later.visible
    added = qt.QLabel("added")
    box.collapsed = True
    layout.addWidget(added)
    host.user.process_events()
    assert not added.visible
    box.collapsed = False
    host.user.process_events()
    assert added.visible and not later.visible
    window.close()


# ------------------------------------------------------------------------------------------------------------- layouts
LAYOUT = """
<layout type="horizontal" split="true">
 <item><view class="vtkMRMLViewNode" singletontag="HostTest">
  <property name="viewlabel" action="default">3D</property></view></item>
 <item><layout type="vertical">
  <item><view class="vtkMRMLSliceNode" singletontag="HostXray">
   <property name="orientation" action="default">Coronal</property>
   <property name="viewlabel" action="default">X</property>
   <property name="viewcolor" action="default">#20A0D0</property></view></item>
  <item><view class="vtkMRMLPlotViewNode" singletontag="HostPlot">
   <property name="viewlabel" action="default">P</property></view></item>
 </layout></item>
</layout>
"""


def test_custom_layout_with_views_of_its_own(host) -> None:
    import slicer

    layouts = slicer.app.layoutManager()
    node = layouts.layoutLogic().GetLayoutNode()
    changed: list[int] = []
    layouts.connect("layoutChanged(int)", changed.append)
    if not node.IsLayoutDescription(5001):
        node.AddLayoutDescription(5001, LAYOUT)
    layouts.setLayout(5001)
    host.user.process_events()
    assert layouts.layout == 5001 and changed == [5001]
    xray = layouts.sliceWidget("HostXray")
    assert xray.visible and not layouts.sliceWidget("Red").visible
    assert xray.mrmlSliceNode().GetOrientation() == "Coronal"
    assert xray.mrmlSliceNode().GetLayoutLabel() == "X"
    assert "#20a0d0" in xray.barWidget().styleSheet
    views = [layouts.threeDWidget(i) for i in range(layouts.threeDViewCount)]
    assert [view.mrmlViewNode().GetSingletonTag() for view in views if view.visible] == ["HostTest"]
    plots = [layouts.plotWidget(i) for i in range(layouts.plotViewCount)]
    assert [plot.mrmlPlotViewNode().GetSingletonTag() for plot in plots if plot.visible] == ["HostPlot"]
    layouts.setLayout(3)
    assert layouts.sliceWidget("Red").isVisibleTo(host.window) and not xray.visible
    layouts.disconnect("layoutChanged(int)", changed.append)


def test_render_blocker_draws_once_afterwards(host) -> None:
    import slicer

    from slicerhost import pictures

    pictures.settle()
    view = slicer.app.layoutManager().sliceWidget("Red").sliceView()
    with slicer.util.RenderBlocker():
        count = view.renders
        view.scheduleRender()
        host.user.process_events(0.05)
        assert view.renders == count
    pictures.settle()
    assert view.renders == count + 1


def test_slice_view_follows_blending_and_new_voxels(host) -> None:
    import slicer

    from slicerhost import pictures

    dark, bright = (slicer.util.addVolumeFromArray(np.full((3, 4, 5), v, np.int16), name=str(v)) for v in (0, 1000))
    for node in (dark, bright):
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(0, 1000)
    slicer.util.setSliceViewerLayers(background=dark, foreground=bright, foregroundOpacity=0.0, fit=True)
    red = slicer.app.layoutManager().sliceWidget("Red")

    def middle() -> int:
        image = pictures.grab(red.sliceView())
        return int(image[image.shape[0] // 2, image.shape[1] // 2, 0])

    assert middle() == 0
    red.mrmlSliceCompositeNode().SetForegroundOpacity(1.0)
    assert middle() == 255
    slicer.util.arrayFromVolume(bright)[:] = 500
    slicer.util.arrayFromVolumeModified(bright)
    assert abs(middle() - 127) < 3


# ------------------------------------------------------------------------------------------------- packages, pictures
def test_packaging_present_and_absent(host, tmp_path) -> None:
    import slicer
    import slicer.packaging

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# what is needed\nnumpy>=1\nno-such-package-of-ours>=3\n")
    parsed = slicer.packaging.load_requirements(requirements)
    assert slicer.packaging.pip_check("numpy") and not slicer.packaging.pip_check(parsed)
    slicer.packaging.pip_ensure(parsed, requester="HostExample")
    assert host.pip.installed == []  # nothing under --testing
    host.app.setTestingEnabled(False)
    seen = host.user.answer("OK")
    slicer.packaging.pip_ensure(parsed, requester="HostExample", prompt_restart=False)
    assert seen and "no-such-package-of-ours" in host.pip.installed[0]
    slicer.util.pip_install("torch")
    assert host.pip.installed[-1] == "torch"

    host.pip("absent")
    assert not hasattr(slicer, "packaging")
    with pytest.raises(ImportError):
        import slicer.packaging
    slicer.util.pip_install("warp-lang")
    assert host.pip.installed[-1] == "warp-lang"


def test_pictures_at_two_sizes_light_and_dark(host, example, tmp_path) -> None:
    from slicerhost import pictures

    means = {}
    try:
        for look in ("light", "dark"):
            pictures.set_look(look)
            for size in ((1280, 800), (1000, 640)):
                host.window.resize(*size)
                image = pictures.grab()
                assert image.shape == (size[1], size[0], 3)
                panel = image[300:600, 20:400].mean()
                means[look, size] = panel
    finally:
        pictures.set_look("light")
    assert min(v for (look, _), v in means.items() if look == "light") > 180
    assert max(v for (look, _), v in means.items() if look == "dark") < 90
    assert pictures.save(tmp_path / "sub" / "a.png").stat().st_size > 5000
    frames = [pictures.grab(example.ui.applyButton)] * 2
    assert pictures.save_gif(frames, tmp_path / "a.gif").read_bytes()[:3] == b"GIF"


def test_watchdog_names_what_stalls_the_event_loop(host) -> None:
    import qt

    from slicerhost.watchdog import Watchdog

    def lazy() -> None:
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            time.sleep(0.01)

    with Watchdog(limit=0.1) as watchdog:
        host.user.process_events(0.1)
        qt.QTimer.singleShot(0, lazy)
        host.user.process_events(0.3)
    blamed = watchdog.blamed("test_host_user.py")
    assert any("lazy" in frame for stall in blamed for stack in stall.stacks for frame in stack)
    worst = max(blamed, key=lambda stall: stall.seconds)
    assert worst.seconds >= 0.19 and worst.cpu_seconds < worst.seconds
    assert "stall of" in str(worst) and not watchdog.blamed("no/such/file")
