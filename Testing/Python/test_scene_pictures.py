"""What Slicer's own displayable managers draw of the scene, off screen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import slicer

import scene_support as kit
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.scene import carm_nodes, views
from DiffPoseSlicerLib.scene.logic import SceneLogic
from DiffPoseSlicerLib.scene.nodes import ijk_to_ras, referenced
from slicerhost.offscreen import SliceView, ThreeDView, write_png


@pytest.fixture(scope="module")
def scene(small_ct):
    from DiffPoseSlicerLib import render

    kit.CORE.clear()
    logic = SceneLogic(slicer.mrmlScene, device="cpu")
    truth = Pose.about(view_rotation("AP"), small_ct.center, kit.CARM, [0.06, -0.05, 0.04, 6.0, -8.0, 10.0])
    ct = kit.ct_node(small_ct)
    fluoro = kit.fluoroscopy_node(render(small_ct, kit.CARM, truth, device="cpu"))
    logic.set_geometry(fluoro, kit.CARM)
    logic.place_carm(ct, fluoro)
    logic.show(ct, fluoro)
    logic.load_ct(ct)
    slice_view = SliceView((320, 400), "DiffPoseXray")
    three_d = ThreeDView((500, 400), "DiffPose3D")
    views.aim_slice(slice_view.node, kit.CARM, logic.c0(fluoro))
    yield logic, ct, fluoro, truth, slice_view, three_d
    logic.close()
    kit.CORE.clear()


def keep(image, name, tmp_path):
    """Write the picture where a person asked for it (DPS_PICTURES in the environment), else with the test."""
    write_png(image, Path(os.environ.get("DPS_PICTURES", tmp_path)) / name)


def layers(fluoro, opacity):
    composite = views.composite_of(slicer.mrmlScene, "DiffPoseXray")
    views.show_layers(composite, referenced(fluoro, carm_nodes.DETECTOR), referenced(fluoro, carm_nodes.DRR), opacity)


def test_the_slice_view_shows_the_image_upright_and_the_synthetic_one_on_top_of_it(scene, tmp_path):
    logic, ct, fluoro, truth, view, _ = scene
    logic.render(ct, fluoro, truth)
    layers(fluoro, 0.0)
    shown = view.image()[..., 0].astype(float)
    keep(shown[..., None].repeat(3, -1).astype(np.uint8), "slice.png", tmp_path)
    pixels = slicer.util.arrayFromVolume(fluoro)[0]
    rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in ((400, 160), (320, 128)))
    expected = pixels[np.ix_(rows.astype(int), columns.astype(int))]
    # 128 x 2.2 mm by 160 x 2.0 mm in a view of 320 by 400: the height decides, the sides are cut a little.
    inner = (slice(20, 380), slice(40, 280))
    assert np.corrcoef(shown[inner].ravel(), expected[inner].ravel())[0, 1] > 0.95
    layers(fluoro, 1.0)
    assert np.abs(view.image()[..., 0].astype(float) - shown)[inner].mean() < 4


def test_the_3d_view_shows_bone_detector_source_and_beam(scene, tmp_path):
    logic, ct, fluoro, truth, view, three_d = scene
    layers(fluoro, 0.0)
    view.node.SetSliceVisible(True)
    view.image()
    logic.set_pose(ct, fluoro, truth)
    views.look_at_scene(three_d.camera_node(), kit.CARM, logic.c0(fluoro))
    complete = three_d.image().astype(int)
    keep(complete.astype(np.uint8), "scene.png", tmp_path)
    for node in (referenced(ct, "surface"), referenced(fluoro, "source"), referenced(fluoro, "beam")):
        node.GetDisplayNode().SetVisibility(False)
        assert (np.abs(three_d.image().astype(int) - complete).max(-1) > 20).sum() > 20, node.GetName()
        node.GetDisplayNode().SetVisibility(True)
    view.node.SetSliceVisible(False)
    assert (np.abs(three_d.image().astype(int) - complete).max(-1) > 20).sum() > 3000
    view.node.SetSliceVisible(True)


def test_from_the_source_bone_lies_over_its_own_shadow(scene, tmp_path):
    logic, ct, fluoro, truth, view, three_d = scene
    logic.set_pose(ct, fluoro, truth)
    three_d.resize((320, 400))
    views.look_from_source(three_d.camera_node(), kit.CARM, logic.c0(fluoro))
    view.node.SetSliceVisible(False)
    referenced(fluoro, "beam").GetDisplayNode().SetVisibility(False)
    surface = referenced(ct, "surface").GetDisplayNode()
    with_bone = three_d.image().astype(int)
    keep(with_bone.astype(np.uint8), "from_source.png", tmp_path)
    surface.SetVisibility(False)
    silhouette = np.abs(with_bone - three_d.image().astype(int)).max(-1) > 25
    surface.SetVisibility(True)
    referenced(fluoro, "beam").GetDisplayNode().SetVisibility(True)
    from DiffPoseSlicerLib import CTVolume, render

    bone = CTVolume.from_array(
        np.where(slicer.util.arrayFromVolume(ct) > 220, 1500, -1000).astype(np.int16), ijk_to_ras(ct)
    )
    shadow = render(bone, kit.CARM, truth, device="cpu")
    here = silhouette[::5, ::5][:80, :64]
    there = shadow[::2, ::2][:80, :64] > 0.05
    assert (here & there).sum() / (here | there).sum() > 0.6
