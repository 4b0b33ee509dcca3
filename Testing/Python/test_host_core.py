"""The test host without Qt: scene, logics and off-screen views."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HOST = Path(__file__).resolve().parents[1] / "Host"
sys.path.insert(0, str(HOST))

pytest.importorskip("slicer_core", reason="needs slicer-core")

import slicer  # noqa: E402
import vtk  # noqa: E402

from slicerhost.core import start_core  # noqa: E402
from slicerhost.offscreen import SliceView, ThreeDView, write_png  # noqa: E402
from slicerhost.plots import PlotView  # noqa: E402


@pytest.fixture
def core():
    core = start_core()
    core.clear()
    yield core
    core.clear()


@pytest.fixture
def volume(core):
    """A volume whose right half (small i, larger R) is dense: 20 x 30 x 40 voxels of 3, 2 and 1 mm."""
    array = np.zeros((40, 30, 20), np.int16)
    array[:, :, :10] = 1000
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(node, array)
    node.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    node.SetSpacing(3, 2, 1)
    node.SetOrigin(30, 30, -20)
    node.CreateDefaultDisplayNodes()
    return node


def cube(name: str, size: float, position: tuple[float, float, float]):
    source = vtk.vtkCubeSource()
    source.SetXLength(size)
    source.SetYLength(size)
    source.SetZLength(size)
    source.SetCenter(*position)
    source.Update()
    node = slicer.modules.models.logic().AddModel(source.GetOutput())
    node.SetName(name)
    node.GetDisplayNode().SetColor(1, 0, 0)
    return node


def test_one_core_with_singletons_and_logics(core) -> None:
    assert start_core() is core
    assert slicer.mrmlScene is core.scene
    for kind in ("Crosshair", "Selection", "Interaction", "SubjectHierarchy"):
        assert core.scene.GetNumberOfNodesByClass(f"vtkMRML{kind}Node") == 1
    for name in ("volumes", "volumerendering", "markups", "models", "transforms", "segmentations", "sequences"):
        assert getattr(slicer.modules, name).logic().GetMRMLScene() is core.scene
    assert slicer.moduleNames.Volumes == "Volumes"
    assert core.scene.GetNodeByID("vtkMRMLColorTableNodeGrey") is not None
    assert not hasattr(slicer, "arrayFromVolume")  # a leftover of the wheel that Slicer does not have


def test_no_qt_and_any_display(tmp_path) -> None:
    """In a process of its own: no Qt is imported, no application pretended, and an unusable DISPLAY does no harm."""
    script = """
import sys
from slicerhost.core import start_core
from slicerhost.offscreen import ThreeDView
start_core()
image = ThreeDView((60, 40)).image()
import slicer
assert image.shape == (40, 60, 3) and image.std() > 5, image.std()
assert not hasattr(slicer, "app") and "PySide6" not in sys.modules and "qt" not in sys.modules
sys.exit(7)
"""
    for display in ("", ":99"):
        environment = {**os.environ, "PYTHONPATH": str(HOST), "DISPLAY": display}
        assert (
            subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, check=False).returncode == 7
        )


def test_slice_view_shows_the_volume_where_it_lies(volume) -> None:
    view = SliceView((200, 100), "Red", "Axial")
    view.show_volume(volume)
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0, 1000)
    image = view.image()
    assert image.shape == (100, 200, 3)
    columns = image[50, :, 0]
    assert columns[80:95].min() == 255  # patient right is left on the screen
    assert columns[105:120].max() == 0
    view.node.SetSliceOffset(500)
    assert view.image().max() == 0


def test_slice_view_blends_a_foreground(volume) -> None:
    array = np.full((40, 30, 20), 1000, np.int16)
    other = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, volume, "DRR")
    slicer.util.updateVolumeFromArray(other, array)
    for node in (volume, other):
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(0, 1000)
    view = SliceView((200, 100), "Red", "Axial")
    view.show_volume(volume, other, opacity=0.5)
    values = view.image()[50, :, 0].astype(int)
    assert abs(values[110] - 127) < 3 and values[85] == 255


def test_three_d_view_shows_models_and_follows_transforms(core) -> None:
    view = ThreeDView((160, 120))
    view.node.SetBoxVisible(False)
    view.node.SetAxisLabelsVisible(False)
    model = cube("Cube", 50, (0, 0, 0))
    view.reset_camera()
    red = lambda: (lambda p: p[:, :, 0].astype(int) - p[:, :, 2] > 60)(view.image())  # noqa: E731
    before = red()
    assert before[60, 80] and before.sum() > 200
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    model.SetAndObserveTransformNodeID(transform.GetID())
    matrix = np.eye(4)
    matrix[2, 3] = 20
    slicer.util.updateTransformMatrixFromArray(transform, matrix)
    assert np.argwhere(red())[:, 0].mean() < np.argwhere(before)[:, 0].mean() - 5  # superior is up


def test_volume_rendering_by_preset(volume) -> None:
    view = ThreeDView((120, 100))
    empty = view.image().astype(int)
    logic = slicer.modules.volumerendering.logic()
    display = logic.CreateDefaultVolumeRenderingNodes(volume)
    display.GetVolumePropertyNode().Copy(logic.GetPresetByName("CT-Bone"))
    display.SetVisibility(True)
    view.reset_camera()
    assert np.abs(view.image() - empty).max() > 40


def test_plot_view_draws_series_and_follows_the_table(core) -> None:
    view = PlotView((300, 200))
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Table")
    x = np.arange(1.0, 20.0)
    slicer.util.updateTableFromArray(table, np.stack([x, 20 / x], axis=1), ["step", "error"])
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "error")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("step")
    series.SetYColumnName("error")
    series.SetPlotType(series.PlotTypeScatter)
    series.SetColor(1, 0, 0)
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", "Chart")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    view.node.SetPlotChartNodeID(chart.GetID())
    red = (view.image().astype(int) @ [1, -1, 0]) > 100
    assert red.sum() > 100
    requests: list[int] = []
    view.on_render_request(lambda: requests.append(1))
    slicer.util.updateTableFromArray(table, np.stack([x, x], axis=1), ["step", "error"])
    assert requests
    changed = (view.image().astype(int) @ [1, -1, 0]) > 100
    assert changed.sum() > 100 and (changed != red).sum() > 100


def test_bundle_round_trip(volume, tmp_path) -> None:
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Pose")
    matrix = np.array([[0, -1, 0, 3], [1, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    slicer.util.updateTransformMatrixFromArray(transform, matrix)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    before = slicer.util.arrayFromVolume(volume).copy()
    path = tmp_path / "scene.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path))
    slicer.mrmlScene.Clear(0)
    assert slicer.mrmlScene.ReadFromMRB(str(path), True)
    loaded = slicer.util.getNode("CT")
    assert np.array_equal(slicer.util.arrayFromVolume(loaded), before)
    assert np.allclose(slicer.util.arrayFromTransformMatrix(loaded.GetParentTransformNode()), matrix)


def test_data_nodes_appear_in_the_subject_hierarchy(volume) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert hierarchy.GetItemByDataNode(volume)
    hidden = slicer.vtkMRMLModelNode()
    hidden.SetHideFromEditors(True)
    assert not hierarchy.GetItemByDataNode(slicer.mrmlScene.AddNode(hidden))


def test_write_png(tmp_path) -> None:
    image = np.zeros((3, 5, 3), np.uint8)
    image[0, 4] = (255, 128, 0)
    write_png(image, tmp_path / "a.png")
    reader = vtk.vtkPNGReader()
    reader.SetFileName(str(tmp_path / "a.png"))
    reader.Update()
    assert [reader.GetOutput().GetScalarComponentAsDouble(4, 2, 0, c) for c in range(3)] == [255, 128, 0]
