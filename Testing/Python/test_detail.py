"""Fine detail: what is compared when a pose is settled."""

from __future__ import annotations

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, Pose, XrayImage
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.geometry.pose import view_rotation
from DiffPoseSlicerLib.geometry.se3 import turn_about
from DiffPoseSlicerLib.registration import descent
from DiffPoseSlicerLib.registration.detail import Detail
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.registration.similarity import Patches
from DiffPoseSlicerLib.registration.solver import Solution
from DiffPoseSlicerLib.registration.views import RigidObjective, View
from DiffPoseSlicerLib.rendering.renderer import Projector

CARM = CArm(1020.0, (100, 128), (2.4, 2.4), (66.0, 48.0), intensity="transmission")


def test_patches_become_the_image_and_patches_again():
    patches = Patches.tile((100, 75), 16)
    image = np.random.default_rng(0).normal(size=(100, 75))
    values = patches.take(image).reshape(1, -1)
    block = patches.block(values)
    assert block.shape == (1, 96, 64)
    np.testing.assert_array_equal(block[0], image[2:98, 5:69])
    np.testing.assert_array_equal(patches.unblock(block), values)
    np.testing.assert_array_equal(patches.unblock(patches.block(values[..., None]))[..., 0], values)


def test_what_is_smooth_goes_and_what_is_masked_says_nothing():
    patches = Patches.tile((96, 96), 16)
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:96, :96] / 96
    smooth, fine = 3 + 2 * v + u * v, 0.1 * rng.normal(size=(96, 96))
    mask = np.ones((96, 96))
    mask[:, :40] = 0
    detail = Detail(patches, patches.take(mask), 2.0)
    values = lambda image: patches.take(image).reshape(1, -1)  # noqa: E731
    inside = patches.take(mask).ravel() > 0
    assert np.abs(detail(values(smooth))[0, inside]).max() < 0.06
    np.testing.assert_allclose(detail(values(smooth + fine)), detail(values(smooth)) + detail(values(fine)), atol=1e-4)
    assert detail(values(fine))[0, inside].std() > 0.08
    covered = np.where(mask > 0, smooth, 1e4)
    np.testing.assert_allclose(detail(values(covered))[0, inside], detail(values(smooth))[0, inside], atol=1e-5)


@pytest.fixture(scope="module")
def scene(small_ct: CTVolume) -> tuple[Projector, Pose, np.ndarray]:
    projector = Projector(small_ct.level(0), "cpu")
    truth = Pose.about(view_rotation("AP"), small_ct.center, CARM, [0.1, -0.1, 0.15, 8, -12, 20])
    return projector, truth, projector.project(CARM, truth.camera_to_ras).reshape(CARM.image_size)


def test_the_gradient_is_that_of_the_filtered_images(small_ct, scene):
    projector, truth, integrals = scene
    xray = XrayImage.from_array(np.rint(np.exp(-integrals) * 60000).astype(np.uint16), CARM)
    view = View.prepare(xray, 16, np.eye(4), False, False, sigma=2.0)
    objective = RigidObjective([view], projector, [], np.eye(4), small_ct.center)
    center_cam = truth.ras_to_camera[:3, :3] @ small_ct.center + truth.ras_to_camera[:3, 3]

    def moved(xi: np.ndarray) -> np.ndarray:
        return turn_about(xi[None], center_cam[None])[0] @ truth.ras_to_camera

    at = np.array([0.01, -0.005, 0.01, 1.0, -1.5, 4.0])
    terms = objective.evaluate(moved(at)[None], None)
    steps = np.array([2e-4] * 3 + [0.02, 0.02, 0.1])
    center_at = moved(at)[:3, :3] @ small_ct.center + moved(at)[:3, 3]
    for axis in range(6):
        costs = []
        for sign in (1, -1):
            xi = np.zeros(6)
            xi[axis] = sign * steps[axis]
            costs.append(objective.evaluate((turn_about(xi[None], center_at[None])[0] @ moved(at))[None], None).cost[0])
        slope = (costs[0] - costs[1]) / (2 * steps[axis])
        assert terms.gradient[0, axis] == pytest.approx(slope / 2, rel=0.05, abs=0.02 * abs(terms.gradient[0]).max())


def test_tissue_that_the_ct_lacks_no_longer_pulls_the_pose_along_the_beam(small_ct, scene, monkeypatch):
    """A layer of fat or water before the detector varies smoothly over the image."""
    _, truth, integrals = scene
    v, u = np.mgrid[: integrals.shape[0], : integrals.shape[1]]
    layer = 1.5 * np.exp(-(((u - 20) / 60) ** 2) - ((v - 70) / 50) ** 2)
    xray = XrayImage.from_array(np.rint(np.exp(-(integrals + layer)) * 60000).astype(np.uint16), CARM)
    registrar = Registrar(small_ct, "cpu")
    points = default_points(small_ct.center)
    settled = register(small_ct, xray, truth, registrar=registrar)

    def stay(objective, pose, *_):
        return Solution(pose[None], objective.evaluate(pose[None], None), ["stalled"], 1)

    monkeypatch.setattr(descent, "polish", stay)
    before = register(small_ct, xray, truth, registrar=registrar)
    errors = [mtre(result.pose, truth, points) for result in (settled, before)]
    assert errors[0] < 0.5 * errors[1] and errors[0] < 0.5
