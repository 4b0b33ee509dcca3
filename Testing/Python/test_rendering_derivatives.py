"""The renderer's derivatives: against central differences in float64, autograd, and exact line integrals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DiffPoseSlicerLib import CArm, CTVolume, Pose, render
from DiffPoseSlicerLib.geometry.pose import view_rotation
from DiffPoseSlicerLib.geometry.se3 import inverse, turn_about
from DiffPoseSlicerLib.rendering import autograd
from DiffPoseSlicerLib.rendering.renderer import Projector
from DiffPoseSlicerLib.rendering.torch_backend import TorchBackend, directions, line_integrals

CARM = CArm(1020.0, (20, 24), (12.0, 11.25), principal_point=(10.3, 9.2))
TILT = np.deg2rad([30.0, -30.0, 30.0])


def pose_of(ct: CTVolume, offset: np.ndarray) -> np.ndarray:
    return Pose.about(view_rotation("AP"), ct.center, CARM, offset).camera_to_ras


def differences(projector: Projector, pose: np.ndarray, center: np.ndarray, h: float) -> np.ndarray:
    """Central differences (N, 6) of the discrete image in float64: over +-h mm, and +-h / 200 rad."""
    reference = TorchBackend(projector.grid.mu, projector.step, "cpu", torch.float64)
    to_camera = inverse(pose)
    center_cam = to_camera[:3, :3] @ center + to_camera[:3, 3]
    columns = []
    for k, size in enumerate([h / 200] * 3 + [h] * 3):
        images = []
        for sign in (1, -1):
            moved = turn_about(sign * size * np.eye(6)[k], center_cam) @ to_camera
            arguments = projector._prepare(CARM, inverse(moved), None, center)[1]
            images.append(reference.project(*arguments, 0)[0][0])
        columns.append((images[0] - images[1]) / (2 * size))
    return np.stack(columns, 1)


def without_slide(columns: np.ndarray, pose: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Jacobian columns without the anatomy's slide along each ray, which changes no line integral."""
    rays = CARM.detector_points()
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    to_camera = inverse(pose)
    center_cam = to_camera[:3, :3] @ center + to_camera[:3, 3]
    slide = (columns[:, 3:] * rays).sum(1, keepdims=True) * rays
    return np.concatenate([columns[:, :3] + np.cross(center_cam, slide), columns[:, 3:] - slide], 1)


def relative_rms(a: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - truth) ** 2).mean(0) / (truth**2).mean(0))


@pytest.mark.parametrize(
    ("cut", "tilt", "step"),
    [(False, 0 * TILT, 2.0), (False, TILT, None), (True, 0 * TILT, 2.0), (True, TILT, None)],
    ids=["whole, straight", "whole, tilted", "cut, straight", "cut, tilted"],
)
def test_pose_derivatives_are_those_of_the_image(small_ct: CTVolume, cut: bool, tilt: np.ndarray, step: float | None):
    """At most 3 % RMS a column from central differences over +-0.02 mm, rays through cut faces included."""
    ct = small_ct.cropped([0, 0, 0, 0, 80, 80]) if cut else small_ct
    assert not cut or ct.level().cut_faces[4:] == (True, True)
    center = small_ct.center + [5, -3, 10]
    pose = pose_of(small_ct, np.concatenate([tilt + 0.02, [4, -7, 20]]))
    projector = Projector(ct.level(), "cpu", step)
    _, jacobian = projector.project(CARM, pose, center=center, jacobian=True)
    truth = without_slide(differences(projector, pose, center, 0.02), pose, center)
    assert (relative_rms(jacobian, truth) < 0.03).all()


def test_what_is_left_out_is_the_quadrature_error(small_ct: CTVolume) -> None:
    """The slide's part of the discrete image's derivative shrinks with the step: the line integral has none."""
    pose, center = pose_of(small_ct, np.concatenate([TILT / 2, [4, -7, 20]])), small_ct.center
    left_out = []
    for step in (4.0, 2.0, 1.0):
        truth = differences(Projector(small_ct.level(), "cpu", step), pose, center, 0.02)
        left_out.append(np.abs(truth - without_slide(truth, pose, center)).mean())
    assert left_out[0] > 1.4 * left_out[1] > 2 * left_out[2]


def test_depth_derivative_against_exact_line_integrals(small_ct: CTVolume) -> None:
    """By depth, where the slide would drown the derivative: slope 1 against differences over 4 mm, finely sampled."""
    pose, center = pose_of(small_ct, np.concatenate([TILT / 3, [4, -7, 20]])), small_ct.center
    images = []
    for sign in (2, -2):
        moved = inverse(turn_about([0, 0, 0, 0, 0, sign], [0, 0, 0]) @ inverse(pose))
        images.append(Projector(small_ct.level(), "cpu", 0.1).project(CARM, moved))
    truth = (images[0] - images[1]) / 4
    column = Projector(small_ct.level(), "cpu").project(CARM, pose, center=center, jacobian=True)[1][:, 5]
    assert (column @ truth) / (truth @ truth) == pytest.approx(1, abs=0.05)
    assert np.corrcoef(column, truth)[0, 1] > 0.95


def test_derivatives_by_the_camera(small_ct: CTVolume) -> None:
    """By distance and principal point, against central differences of the float64 reference: the length changes too."""
    projector = Projector(small_ct.level(), "cpu", 1.0)
    reference = TorchBackend(projector.grid.mu, 1.0, "cpu", torch.float64)
    pose = pose_of(small_ct, np.concatenate([TILT, [4, -7, 20]]))
    image, jacobian = projector.project(CARM, pose, jacobian=True, intrinsics=True)
    camera, *rest = projector._prepare(CARM, pose, None, None)[1]
    for column, (parameter, size) in enumerate([(4, 0.05), (2, 0.003), (3, 0.003)], start=6):
        change = np.zeros(5)
        change[parameter] = size
        plus, minus = (reference.project(camera + sign * change, *rest, 0)[0][0] for sign in (1, -1))
        assert relative_rms(jacobian[:, column, None], (plus - minus)[:, None] / (2 * size)).max() < 0.03
    assert jacobian.shape == (*image.shape, 9)


def test_gradcheck_of_the_reference() -> None:
    """torch's own gradcheck in float64: the reference by pose and camera, at a place without a kink within reach."""
    rng = np.random.default_rng(4)
    mu = torch.tensor(np.pad(rng.uniform(0, 1, (5, 6, 7)), 1))
    pixels = torch.tensor(rng.uniform(0, 9, (6, 2)))
    camera = torch.tensor([2.1, 1.9, 4.2, 4.4, 90.0], dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor([[0.9, 0.1, 0.02, 3.9], [-0.1, 0.9, 0.05, 3.6], [0.03, -0.04, 0.8, -20.0]]).double()
    matrix.requires_grad_()

    def image(matrix: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
        rays, lengths = directions(camera, pixels)
        return line_integrals(mu, matrix, rays, lengths.detach(), 0.37)

    assert image(matrix, camera).min() > 0
    assert torch.autograd.gradcheck(image, (matrix, camera), eps=1e-7, atol=1e-4)


def test_autograd_is_the_jacobian(small_ct: CTVolume) -> None:
    """Through torch.autograd.Function: the pose's gradient is the Jacobian's product, for one pose and for several."""
    projector = Projector(small_ct.level(8), "cpu")
    center = torch.tensor(small_ct.center)
    poses = np.stack([pose_of(small_ct, np.concatenate([s * TILT, [4, -7, 20]])) for s in (0.1, 0.5)])
    images, jacobians = projector.project(CARM, poses, center=small_ct.center, jacobian=True)
    weights = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    xi = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    cameras = torch.tensor(poses)
    centers = torch.linalg.solve(cameras, torch.cat([center, torch.ones(1)]).double())[:, :3]
    moved = cameras @ torch.linalg.inv(autograd.turn_about(xi, centers))
    result = autograd.project(projector, CARM, moved)
    assert np.array_equal(result.detach().numpy(), images)
    (result * weights).sum().backward()
    expected = np.einsum("bn,bnk->bk", weights.numpy(), jacobians)
    assert np.allclose(xi.grad.numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    alone = autograd.project(projector, CARM, cameras[0])
    assert alone.shape == images[0].shape and not alone.requires_grad


def test_twist_moves_the_anatomy_about_its_centre(small_ct: CTVolume) -> None:
    """The convention, seen: +x shifts the picture to the right, so the image falls where its slope is positive."""
    pose = pose_of(small_ct, np.zeros(6))
    image, jacobian = render(small_ct, CARM, Pose(pose), jacobian=True, spacing=4, device="cpu")
    slope = np.gradient(image, axis=1)
    assert np.corrcoef(slope[:, 2:-2].ravel(), jacobian[:, 2:-2, 3].ravel())[0, 1] < -0.9
    # A turn about the centre leaves the central rays nearly as they are; a shift by a pixel's size at the centre moves
    # the picture by about a pixel.
    shift = CARM.pixel_spacing[1] * CARM.source_to_isocenter / CARM.source_to_detector
    moved = inverse(turn_about([0, 0, 0, shift, 0, 0], [0, 0, 0]) @ inverse(pose))
    after = render(small_ct, CARM, Pose(moved), spacing=4, device="cpu")
    assert np.abs(after[:, 1:] - image[:, :-1]).mean() < 0.3 * np.abs(after[:, 1:] - image[:, 1:]).mean()
