"""The renderer's images: against closed forms, an independent ray tracer, its own reference, and odd geometries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, InputError, Pose, render
from DiffPoseSlicerLib.geometry.pose import view_rotation
from DiffPoseSlicerLib.geometry.se3 import rigid, so3_exp, turn_about
from DiffPoseSlicerLib.imaging.attenuation import AttenuationGrid
from DiffPoseSlicerLib.rendering.renderer import Projector, render_structures

CARM = CArm(1020.0, (40, 48), (6.0, 5.5), principal_point=(20.3, 17.8))
WHOLE = (False,) * 6


def random_pose(rng: np.random.Generator, ct: CTVolume, view: str = "AP", carm: CArm = CARM) -> Pose:
    offset = np.concatenate([np.deg2rad(rng.uniform(-30, 30, 3)), rng.uniform(-40, 40, 3)])
    return Pose.about(view_rotation(view), ct.center, carm, offset)


def box(shape: tuple[int, int, int], value: float, spacing: tuple[float, float, float] = (1, 1, 1)) -> AttenuationGrid:
    """A block of constant attenuation, [k, j, i], centred on the origin, in its margin of air."""
    mu = np.pad(np.full(shape, value, np.float32), 1)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(mu.shape[::-1]) - 1) / 2 * np.array(spacing)
    return AttenuationGrid(mu, affine, WHOLE)


def looking_along(axis: int, distance: float = 500.0) -> np.ndarray:
    """camera_to_ras of a camera `distance` before the origin that looks along +axis."""
    z = np.eye(3)[axis]
    x = np.eye(3)[(axis + 1) % 3]
    return rigid(np.stack([x, np.cross(z, x), z], 1), -distance * z)


@pytest.fixture(params=["warp", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both backends, chosen as a user would."""
    if request.param == "torch":
        monkeypatch.setenv("DIFFPOSESLICER_BACKEND", "torch")
    return request.param


# --- Closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ray_parallel_to_an_axis_through_a_block(backend: str, axis: int) -> None:
    """mu times the length: the interpolant adds half a voxel of ramp on each side, which integrates to one voxel."""
    grid = box((21, 31, 41), 0.02, (0.5, 0.8, 2.0))
    projector = Projector(grid, "cpu", step=0.05)
    assert projector.backend == backend
    image = projector.project(CARM, looking_along(axis), np.array([CARM.principal_point]))
    length = np.array([41, 31, 21])[axis] * np.array([0.5, 0.8, 2.0])[axis]
    assert image[0] == pytest.approx(0.02 * length, rel=2e-4)


def test_unit_impulse_integrates_to_one_voxel_volume(backend: str) -> None:
    """The line integrals through one voxel, summed over a fine detector, give its value times its volume, magnified."""
    mu = np.zeros((5, 5, 5), np.float32)
    mu[2, 2, 2] = 1
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -4
    carm = CArm(1000.0, (121, 121), (0.1, 0.1))
    image = Projector(AttenuationGrid(mu, affine, WHOLE), "cpu", step=0.1).project(carm, looking_along(1))
    pixel_at_origin = 0.1 * 500 / 1000
    # Rays diverge: within the voxel magnification varies by 2 mm in 500, symmetrically.
    assert image.sum() * pixel_at_origin**2 == pytest.approx(8.0, rel=1e-3)


def test_a_gaussian_ball_has_its_closed_form(backend: str) -> None:
    """An off-centre camera, an odd pose: exp(-d^2 / 2 s^2) sqrt(2 pi) s, d the ray's distance from the centre."""
    sigma, n = 12.0, 63
    axis = np.arange(n) * 1.5 - (n - 1) * 0.75
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    mu = 0.05 * np.exp(-(x**2 + y**2 + z**2) / (2 * sigma**2))
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = axis[0] - 1.5
    grid = AttenuationGrid(np.pad(mu, 1).astype(np.float32), affine, WHOLE)
    matrix = np.linalg.inv(turn_about([0.3, -0.4, 0.2, 7, -5, 30], [0, 0, 700])) @ looking_along(1, 0.0)
    matrix[:3, 3] = -700 * matrix[:3, 2] + 4 * matrix[:3, 0]
    image = Projector(grid, "cpu").project(CARM, matrix)
    ends = CARM.detector_points() @ matrix[:3, :3].T
    rays = ends / np.linalg.norm(ends, axis=1, keepdims=True)
    off = np.linalg.norm(np.cross(rays, -matrix[:3, 3]), axis=1)
    expected = 0.05 * np.sqrt(2 * np.pi) * sigma * np.exp(-(off**2) / (2 * sigma**2))
    # Interpolating a Gaussian linearly widens it: a relative error of spacing^2 / sigma^2 / 4 at most.
    assert np.abs(image - expected).max() < expected.max() * 1.5**2 / sigma**2 / 4


def test_error_falls_with_the_square_of_the_step(small_ct: CTVolume) -> None:
    """Midpoint rule on a continuous, piecewise smooth function: 4 times less error for half the step, within noise."""
    grid, pose = small_ct.level(), random_pose(np.random.default_rng(1), small_ct)
    images = [Projector(grid, "cpu", step).project(CARM, pose.camera_to_ras) for step in (0.05, 0.5, 1.0, 2.0, 4.0)]
    errors = [np.sqrt(((image - images[0]) ** 2).mean()) for image in images[1:]]
    assert errors[0] < errors[1] < errors[2] < errors[3]
    assert errors[3] / errors[0] > 8**1.5
    assert errors[2] < 2e-3 * images[0].max()


# --- Independent truth -----------------------------------------------------------------------------------------------


def test_against_plastimatch(chest_ct_path: Path) -> None:
    """Exact mode within 0.05 % and trilinear within 1 % of the image's RMS, 20 random poses."""
    from DiffPoseSlicerLib.evaluation.plastimatch import Plastimatch

    chest = CTVolume.read(chest_ct_path)
    nk, nj, ni = chest.hu.shape
    hu = np.rint(chest.hu.reshape(nk, nj // 2, 2, ni // 2, 2).mean((2, 4))).astype(np.int16)
    affine = chest.affine @ np.diag([2, 2, 1, 1.0])
    # plastimatch drops the last piece of a ray that leaves the volume through tissue: it gets a voxel of air.
    affine[:3, 3] = (affine @ [-1, -1, -1, 1])[:3]
    ct = CTVolume.from_array(np.pad(hu, 1, constant_values=-1000), affine)
    rng = np.random.default_rng(7)
    with Plastimatch(ct) as tracer:
        for n in range(20):
            pose = random_pose(rng, ct, ("AP", "PA", "LEFT_LATERAL", "RIGHT_LATERAL")[n % 4])
            truth = tracer.drr(CARM, pose)
            scale = np.sqrt((truth**2).mean())
            exact = render(ct, CARM, pose, mode="exact", device="cpu")
            assert np.sqrt(((exact - truth) ** 2).mean()) < 5e-4 * scale
            smooth = render(ct, CARM, pose, step=1.0, device="cpu")
            assert np.sqrt(((smooth - truth) ** 2).mean()) < 1e-2 * scale


def test_against_the_float64_reference(small_ct: CTVolume) -> None:
    """The kernel and plain torch in double precision, same samples: images to 1e-5, derivatives to 1 %."""
    import torch

    from DiffPoseSlicerLib.rendering.torch_backend import TorchBackend

    rng = np.random.default_rng(3)
    grid = small_ct.level()
    for step in (None, 1.3):
        projector = Projector(grid, "cpu", step)
        reference = TorchBackend(grid.mu, projector.step, "cpu", torch.float64)
        pose = random_pose(rng, small_ct).camera_to_ras
        image, jacobian = projector.project(CARM, pose, jacobian=True, intrinsics=True)
        arguments = projector._prepare(CARM, pose, None, None)[1]
        true_image, true_jacobian = (array[0] for array in reference.project(*arguments, 9))
        assert np.abs(image - true_image).max() < 2e-5 * true_image.max()
        # Samples within rounding of a voxel's face may see either side's slope.
        error = np.sqrt(((jacobian - true_jacobian) ** 2).mean(0) / (true_jacobian**2).mean(0))
        assert jacobian.shape[1] == 9
        assert (error < 0.01).all()


# --- One scene, said in two ways --------------------------------------------------------------------------------------


def test_moving_the_volume_is_moving_the_camera(backend: str, small_ct: CTVolume) -> None:
    """A CT with a turned, shifted (oblique) affine looks the same from a camera turned and shifted with it."""
    motion = rigid(so3_exp([0.3, -0.5, 0.8]), [30, -200, 15])
    moved = CTVolume.from_array(small_ct.hu, motion @ small_ct.affine)
    pose = random_pose(np.random.default_rng(5), small_ct)
    one = Projector(small_ct.level(8), "cpu").project(CARM, pose.camera_to_ras)
    other = Projector(moved.level(8), "cpu").project(CARM, motion @ pose.camera_to_ras)
    assert one.max() > 2
    assert np.abs(one - other).max() < 1e-4


def test_reordered_voxels_make_no_difference(small_ct: CTVolume) -> None:
    """The same CT stored head first, mirrored or with its axes exchanged renders alike: only the affine counts."""
    pose = random_pose(np.random.default_rng(6), small_ct)
    one = render(small_ct, CARM, pose, step=1.0, device="cpu")
    hu = small_ct.hu[::-1].transpose(2, 0, 1)  # now [i, reversed k, j]: its (i, j, k) are our (j, reversed k, i)
    order = np.zeros((4, 4))
    order[0, 2] = order[1, 0] = order[3, 3] = 1
    order[2, 1], order[2, 3] = -1, small_ct.hu.shape[0] - 1
    other = render(CTVolume.from_array(hu, small_ct.affine @ order), CARM, pose, step=1.0, device="cpu")
    assert np.abs(one - other).max() < 1e-4


def test_sheared_affine(backend: str) -> None:
    """A gantry tilt shears the voxel grid: a ray along z through a sheared block crosses its whole height."""
    grid = box((30, 20, 20), 0.03)
    affine = grid.affine.copy()
    affine[:3, 2] += [0.25, 0, 0]
    affine[:3, 3] -= affine[:3, 2] * 15.5 - [0, 0, 15.5]
    image = Projector(AttenuationGrid(grid.mu, affine, WHOLE), "cpu", 0.05).project(
        CARM, looking_along(2), np.array([CARM.principal_point])
    )
    assert image[0] == pytest.approx(0.03 * 30, rel=1e-3)


# --- Odd geometries ---------------------------------------------------------------------------------------------------


def test_source_inside_the_volume_and_detector_cutting_it(backend: str) -> None:
    """Only what lies between source and detector counts."""
    projector = Projector(box((200, 200, 200), 0.01), "cpu", step=0.1)
    axis = np.array([CARM.principal_point])
    inside = rigid(looking_along(2)[:3, :3], [0, 0, 20])
    assert projector.project(CARM, inside, axis)[0] == pytest.approx(0.01 * (100 - 20), rel=2e-3)
    short = CArm(80.0, (4, 4), (1.0, 1.0), principal_point=(1.0, 1.0))
    assert projector.project(short, inside, np.array([[1.0, 1.0]]))[0] == pytest.approx(0.01 * 80, rel=2e-3)
    assert projector.project(short, rigid(looking_along(2)[:3, :3], [0, 0, -150]), np.array([[1.0, 1.0]]))[
        0
    ] == pytest.approx(0.01 * 30, abs=0.01)


def test_rays_that_miss(backend: str) -> None:
    """Behind the source, beside the volume, parallel to it: zero, and zero derivatives."""
    projector = Projector(box((10, 10, 10), 0.02), "cpu")
    for away in (rigid(looking_along(1)[:3, :3], [0, 50, 0]), rigid(looking_along(1)[:3, :3], [300, -500, 0])):
        image, jacobian = projector.project(CARM, away, jacobian=True)
        assert not image.any() and not jacobian.any()


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 1, 40), (40, 40, 1)])
def test_volumes_one_voxel_thin(backend: str, shape: tuple[int, int, int]) -> None:
    """A sheet seen face on: its value times its thickness."""
    axis = 2 - shape.index(1)
    spacing = np.ones(3)
    spacing[axis] = 3.0
    projector = Projector(box(shape, 0.02, tuple(spacing)), "cpu", step=0.02)
    image = projector.project(CARM, looking_along(axis), np.array([CARM.principal_point]))
    assert image[0] == pytest.approx(0.02 * 3.0, rel=1e-3)


def test_strong_anisotropy(backend: str) -> None:
    """0.3 x 0.3 x 10 mm voxels, across and along the thick axis."""
    projector = Projector(box((8, 120, 120), 0.02, (0.3, 0.3, 10.0)), "cpu", step=0.05)
    axis = np.array([CARM.principal_point])
    assert projector.project(CARM, looking_along(2), axis)[0] == pytest.approx(0.02 * 80, rel=1e-3)
    assert projector.project(CARM, looking_along(0), axis)[0] == pytest.approx(0.02 * 36, rel=1e-3)


# --- Batches, pixels, repetition --------------------------------------------------------------------------------------


def test_pixels_do_not_depend_on_their_batch(small_ct: CTVolume) -> None:
    """To the last bit: one pixel alone, in another order, in a batch of poses, another time."""
    rng = np.random.default_rng(8)
    projector = Projector(small_ct.level(), "cpu")
    poses = np.stack([random_pose(rng, small_ct).camera_to_ras for _ in range(3)])
    images, jacobians = projector.project(CARM, poses, jacobian=True)
    pixels = CARM.pixel_grid()
    chosen = rng.permutation(len(pixels))[:101]
    for pose, image, jacobian in zip(poses, images, jacobians, strict=True):
        some, derivatives = projector.project(CARM, pose, pixels[chosen], jacobian=True)
        assert np.array_equal(some, image[chosen])
        assert np.array_equal(derivatives, jacobian[chosen])
        alone = projector.project(CARM, pose, pixels[chosen[:1]], jacobian=True)[0]
        assert alone[0] == image[chosen[0]]
    again, derivatives = projector.project(CARM, poses, jacobian=True)
    assert np.array_equal(again, images) and np.array_equal(derivatives, jacobians)


def test_fractional_pixels_lie_between_whole_ones(small_ct: CTVolume) -> None:
    pose = random_pose(np.random.default_rng(9), small_ct)
    points = np.array([[20.0, 17.0], [20.5, 17.0], [21.0, 17.0]])
    left, middle, right = render(small_ct, CARM, pose, pixels=points, step=1.0, device="cpu")
    whole = render(small_ct, CARM, pose, step=1.0, device="cpu")
    assert left == whole[17, 20] and right == whole[17, 21]
    assert abs(middle - (left + right) / 2) < abs(left - right) / 2 + 0.1


def test_several_threads_share_one_projector(small_ct: CTVolume) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(10)
    projector = Projector(small_ct.level(), "cpu")
    poses = [random_pose(rng, small_ct).camera_to_ras for _ in range(16)]
    alone = [projector.project(CARM, pose) for pose in poses]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda pose: projector.project(CARM, pose), poses))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


# --- Modes and outputs ------------------------------------------------------------------------------------------------


def test_structures_add_up_and_keep_apart(small_ct: CTVolume) -> None:
    labels = (small_ct.hu > -300).astype(int) + 2 * (small_ct.hu > 200)
    pose = random_pose(np.random.default_rng(11), small_ct)
    whole = render(small_ct, CARM, pose, step=1.5, device="cpu")
    channels = render_structures(small_ct, labels, CARM, pose, step=1.5, device="cpu")
    assert channels.shape == (*CARM.image_size, 4)
    assert np.abs(channels.sum(-1) - whole).max() < 1e-3
    assert not channels[..., 2].any()
    bone = CTVolume.from_array(np.where(labels == 3, small_ct.hu, -1000), small_ct.affine)
    alone = render(bone, CARM, pose, step=1.5, device="cpu")
    assert np.corrcoef(alone.ravel(), channels[..., 3].ravel())[0, 1] > 0.98
    with pytest.raises(InputError, match="shape"):
        render_structures(small_ct, labels[1:], CARM, pose)
    with pytest.raises(InputError, match="0 to 255"):
        render_structures(small_ct, labels - 1, CARM, pose)


def test_transmission(small_ct: CTVolume) -> None:
    pose = random_pose(np.random.default_rng(12), small_ct)
    image, jacobian = render(small_ct, CARM, pose, jacobian=True, spacing=8, device="cpu")
    through, slope = render(small_ct, CARM, pose, jacobian=True, spacing=8, output="transmission", device="cpu")
    assert np.allclose(through, np.exp(-image))
    assert np.allclose(slope, -np.exp(-image)[..., None] * jacobian)


def test_refusals(small_ct: CTVolume) -> None:
    """Each by one sentence with the value."""
    pose = random_pose(np.random.default_rng(13), small_ct)
    grid = small_ct.level(16)
    for change, words in ((np.nan, "i=3, j=2, k=1"), (np.inf, "i=3, j=2, k=1"), (-0.5, "i=3, j=2, k=1")):
        mu = grid.mu.copy()
        mu[1, 2, 3] = change
        with pytest.raises(InputError, match=words):
            Projector(AttenuationGrid(mu, grid.affine, WHOLE))
    with pytest.raises(InputError, match="cuda:99"):
        Projector(grid, "cuda:99")
    with pytest.raises(InputError, match="step"):
        Projector(grid, "cpu", step=-1.0)
    with pytest.raises(InputError, match="shape"):
        Projector(grid, "cpu").project(CARM, pose.camera_to_ras, np.zeros((4, 3)))
    with pytest.raises(InputError, match="derivatives"):
        render(small_ct, CARM, pose, mode="exact", jacobian=True)
    with pytest.raises(InputError, match="mode"):
        render(small_ct, CARM, pose, mode="cubic")
    with pytest.raises(InputError, match="output"):
        render(small_ct, CARM, pose, output="inverted")


def test_rounding_of_the_stored_grid_does_not_show(small_ct: CTVolume) -> None:
    """16-bit storage: beside metal that sets the unit, soft tissue keeps five digits."""
    hu = small_ct.hu.copy()
    hu[10, 10, 10] = 3071
    ct = CTVolume.from_array(hu, small_ct.affine)
    pose = random_pose(np.random.default_rng(14), ct)
    pixels = CARM.pixel_grid()
    warp = Projector(ct.level(), "cpu").project(CARM, pose.camera_to_ras, pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFPOSESLICER_BACKEND", "torch")
        torch = Projector(ct.level(), "cpu").project(CARM, pose.camera_to_ras, pixels)
    assert np.abs(warp - torch).max() < 5e-5
