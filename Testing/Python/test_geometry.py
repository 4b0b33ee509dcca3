"""geometry/: group axioms, Jacobians, the C-arm and its files, and views against axes worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry import se3
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.coordinates import conjugate_ras_lps, flip_ras_lps, transform_points
from DiffPoseSlicerLib.geometry.files import write_json
from DiffPoseSlicerLib.geometry.pose import VIEWS, Pose, read_poses, view_rotation

# Magnitudes where formulas break: zero, the series' end, both sides of it, pi and just below it.
ANGLES = [0.0, 1e-12, 1e-8, 1e-5, 4.9e-3, 5.1e-3, 0.19, 0.21, 1.0, 3.0, np.pi - 1e-3, np.pi - 1e-7, np.pi - 1e-12]
AXES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, -1], [1, -2, 3], [-1, 1, 1e-9]], float)
AXES /= np.linalg.norm(AXES, axis=1, keepdims=True)


def vectors() -> st.SearchStrategy[np.ndarray]:
    """Rotation vectors with angles from ANGLES about random axes."""
    axis = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda a: np.linalg.norm(a) > 0.1)
    return st.builds(lambda a, t: np.array(a) / np.linalg.norm(a) * t, axis, st.sampled_from(ANGLES))


def twists() -> st.SearchStrategy[np.ndarray]:
    shift = st.tuples(*[st.floats(-500, 500)] * 3)
    return st.builds(lambda omega, v: np.concatenate([omega, v]), vectors(), shift)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("axis", AXES)
def test_rotation_survives_log_and_exp(axis, angle):
    rotation = se3.so3_exp(axis * angle)
    assert abs(rotation.T @ rotation - np.eye(3)).max() < 1e-14
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-13)
    assert abs(se3.so3_exp(se3.so3_log(rotation)) - rotation).max() < 2e-14
    assert se3.rotation_angle(rotation) == pytest.approx(angle, abs=2e-8)
    if angle < np.pi - 1e-6:
        assert abs(se3.so3_log(rotation) - axis * angle).max() < 1e-12 + 1e-9 * (angle > 3.1)


def test_log_at_exactly_pi_gives_the_axis_up_to_its_sign():
    for axis in AXES:
        rotation = 2 * np.outer(axis, axis) - np.eye(3)
        omega = se3.so3_log(rotation)
        assert abs(np.linalg.norm(omega) - np.pi) < 1e-12
        assert abs(abs(omega @ axis) - np.pi) < 1e-12


@given(twists(), twists(), twists())
def test_group_axioms(a, b, c):
    ta, tb, tc = (se3.se3_exp(x) for x in (a, b, c))
    assert se3.rigidity_error(ta @ tb) < 1e-13
    np.testing.assert_allclose((ta @ tb) @ tc, ta @ (tb @ tc), atol=1e-9)
    np.testing.assert_allclose(ta @ se3.inverse(ta), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(se3.inverse(ta @ tb), se3.inverse(tb) @ se3.inverse(ta), atol=1e-9)
    np.testing.assert_allclose(se3.se3_exp(se3.se3_log(ta)), ta, atol=1e-6)
    np.testing.assert_allclose(ta @ se3.se3_exp(b) @ se3.inverse(ta), se3.se3_exp(se3.adjoint(ta) @ b), atol=1e-6)


def test_exponential_agrees_with_the_power_series():
    for omega in (np.array([0.3, -0.5, 0.2]), np.array([1e-4, 2e-4, 0]), np.array([2.0, 1.0, -1.5])):
        xi = np.concatenate([omega, [10.0, -20.0, 30.0]])
        generator = np.zeros((4, 4))
        generator[:3, :3], generator[:3, 3] = se3.hat(omega), xi[3:]
        term, total = np.eye(4), np.eye(4)
        for n in range(1, 40):
            term = term @ generator / n
            total = total + term
        np.testing.assert_allclose(se3.se3_exp(xi), total, atol=1e-11)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 4.9e-3, 5.1e-3, 0.19, 0.21, 1.5, 3.0])
def test_left_jacobians_by_finite_differences(angle):
    rng = np.random.default_rng(1)
    for axis in AXES:
        xi = np.concatenate([axis * angle, rng.uniform(-50, 50, 3)])
        h = 1e-5
        numeric = np.empty((6, 6))
        for n in range(6):
            d = np.zeros(6)
            d[n] = h
            up, down = se3.se3_exp(xi + d), se3.se3_exp(xi - d)
            numeric[:, n] = se3.se3_log(up @ se3.inverse(down)) / (2 * h)
        np.testing.assert_allclose(se3.se3_left_jacobian(xi), numeric, atol=2e-5)
        np.testing.assert_allclose(se3.so3_left_jacobian(xi[:3]), numeric[:3, :3], atol=1e-7)


def test_functions_take_batches():
    rng = np.random.default_rng(2)
    xi = rng.normal(size=(4, 5, 6))
    batch = se3.se3_exp(xi)
    assert batch.shape == (4, 5, 4, 4)
    np.testing.assert_allclose(batch[2, 3], se3.se3_exp(xi[2, 3]))
    np.testing.assert_allclose(se3.se3_log(batch)[1, 1], se3.se3_log(batch[1, 1]))
    assert se3.se3_left_jacobian(xi).shape == se3.adjoint(batch).shape == (4, 5, 6, 6)


def test_turn_about_moves_the_centre_by_the_shift_alone():
    xi, center = np.array([0.3, -0.2, 1.0, 5, 6, 7]), np.array([100.0, -50, 700])
    np.testing.assert_allclose(transform_points(se3.turn_about(xi, center), center), center + xi[3:], atol=1e-12)


def test_nearest_rigid_removes_rounding_and_mirrors_nothing():
    exact = se3.se3_exp([0.4, 0.1, -2.0, 1, 2, 3])
    rounded = np.round(exact, 4)
    repaired = se3.nearest_rigid(rounded)
    assert se3.rigidity_error(repaired) < 1e-14
    assert abs(repaired - exact).max() < 1e-4
    mirrored = np.diag([-1.0, 1, 1, 1])
    assert np.linalg.det(se3.nearest_rigid(mirrored)[:3, :3]) == pytest.approx(1)


def test_ras_and_lps():
    affine = np.array([[1, 2, 3, 10], [4, 5, 6, 20], [7, 8, 9, 30], [0, 0, 0, 1.0]])
    flipped = flip_ras_lps(affine)
    np.testing.assert_array_equal(flipped @ [0, 0, 0, 1], [-10, -20, 30, 1])
    np.testing.assert_array_equal(flip_ras_lps(flipped), affine)
    np.testing.assert_array_equal(conjugate_ras_lps(conjugate_ras_lps(affine)), affine)


# ---- C-arm -------------------------------------------------------------------------------------------------------

# Non-square pixels, non-square image, off-centre principal point: nothing can be swapped unnoticed.
CARM = CArm(1000.0, (120, 200), (0.5, 0.8), (90.0, 70.0))


def test_projection_against_hand_worked_pixels():
    # 10 mm right and 20 mm down at half the distance: 20 and 40 mm on the detector, 25 columns and 80 rows.
    np.testing.assert_allclose(CARM.project([10, 20, 500]), [90 + 25, 70 + 80])
    np.testing.assert_allclose(CARM.detector_points([[115.0, 150.0]]), [[20, 40, 1000]])
    assert np.isnan(CARM.project([1, 1, -5])).all()
    np.testing.assert_allclose(CARM.intrinsics @ CARM.detector_from_pixel, 1000 * np.eye(3), atol=1e-9)
    assert CARM.pixel_grid()[201].tolist() == [1, 1]


def test_default_centre_and_isocentre():
    carm = CArm(1020, (256, 512), (1, 1))
    assert carm.principal_point == (255.5, 127.5)
    assert carm.source_to_isocenter == pytest.approx(700)


@pytest.mark.parametrize("size", [(60, 100), (30, 50), (240, 400), (50, 77)])
def test_resizing_keeps_the_detector(size):
    carm = CARM.resized(size)
    rows, columns = size
    for corner in ([-0.5, -0.5], [1, 1]):
        old = np.array([-0.5, -0.5]) if corner[0] < 0 else np.array([199.5, 119.5])
        new = np.array([-0.5, -0.5]) if corner[0] < 0 else np.array([columns - 0.5, rows - 0.5])
        np.testing.assert_allclose(CARM.detector_points(old), carm.detector_points(new), atol=1e-9)
    back = carm.resized(CARM.image_size)
    np.testing.assert_allclose(back.intrinsics, CARM.intrinsics, atol=1e-9)


def test_cropping_keeps_every_pixel_in_place():
    window = CARM.cropped(10, 30, (40, 50))
    assert window.image_size == (40, 50)
    np.testing.assert_allclose(window.detector_points([5.0, 6.0]), CARM.detector_points([35.0, 16.0]))


def test_carm_file_round_trip(tmp_path):
    carm = CArm(987.6, (120, 200), (0.5, 0.8), (90.25, 70.75), 612.5, "transmission", True, 270)
    carm.write(tmp_path / "carm.json")
    assert CArm.read(tmp_path / "carm.json") == carm
    data = json.loads((tmp_path / "carm.json").read_text())
    assert data["imageSize"] == [120, 200]
    assert data["principalPoint"] == [90.25, 70.75]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sourceToDetector": 0}, "sourceToDetector is 0"),
        ({"sourceToDetector": "1000"}, "sourceToDetector = '1000'"),
        ({"sourceToDetector": None}, "sourceToDetector = None"),
        ({"imageSize": [100.5, 20]}, "100.5"),
        ({"imageSize": [100]}, "list of 2"),
        ({"imageSize": [0, 20]}, "imageSize"),
        ({"pixelSpacing": [0.0, 1.0]}, "pixelSpacing"),
        ({"pixelSpacing": [1.0, float("nan")]}, "pixelSpacing"),
        ({"principalPoint": [1, "x"]}, "principalPoint"),
        ({"sourceToIsocenter": -5}, "sourceToIsocenter is -5"),
        ({"intensity": "bright"}, "'bright'"),
        ({"rotation": 45}, "45"),
        ({"mirrored": "yes"}, "'yes'"),
    ],
)
def test_impossible_carms_are_refused_with_the_value(change, words):
    with pytest.raises(InputError, match=words.replace("[", r"\[")) as caught:
        CArm.from_json({**CARM.to_json(), **change})
    assert "\n" not in str(caught.value)


def test_missing_entries_are_named():
    for key in ("sourceToDetector", "imageSize", "pixelSpacing"):
        data = CARM.to_json()
        del data[key]
        with pytest.raises(InputError, match=key):
            CArm.from_json(data)


# ---- Views and poses ---------------------------------------------------------------------------------------------

# Camera x (right in the image), y (down), z (beam) in RAS, by hand from what each view is called.
R, A, S = np.eye(3)
HAND_WORKED = {
    "AP": (-R, -S, -A),  # source in front; the patient's left on the camera's right
    "PA": (R, -S, A),  # source behind
    "LEFT_LATERAL": (A, -S, -R),  # beam from right to left, the left side at the detector
    "RIGHT_LATERAL": (-A, -S, R),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_against_hand_worked_axes(view):
    rotation = view_rotation(view)
    np.testing.assert_allclose(rotation.T, HAND_WORKED[view], atol=1e-15)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_positioner_angles_move_the_detector_to_the_left_and_to_the_head():
    lao = view_rotation("PA", 30, 0)[:, 2]  # beam direction: towards the detector
    np.testing.assert_allclose(lao, [-0.5, np.sqrt(0.75), 0], atol=1e-12)  # left is -R
    cranial = view_rotation("PA", 0, 20)[:, 2]
    np.testing.assert_allclose(cranial, [0, np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))], atol=1e-12)
    both = view_rotation("PA", 30, 20)[:, 2]
    assert both[2] == pytest.approx(np.sin(np.deg2rad(20)))
    assert np.rad2deg(np.arctan2(-both[0], both[1])) == pytest.approx(30)
    np.testing.assert_allclose(view_rotation("PA", 180, 0), view_rotation("AP"), atol=1e-12)


def test_nominal_pose_puts_the_centre_on_the_central_ray():
    center = np.array([12.0, -34, 56])
    pose = Pose.from_view("LEFT_LATERAL", center, CARM, 10, -5)
    np.testing.assert_allclose(
        transform_points(pose.ras_to_camera, center), [0, 0, CARM.source_to_isocenter], atol=1e-9
    )
    np.testing.assert_allclose(CARM.project(transform_points(pose.ras_to_camera, center)), CARM.principal_point)
    # AP: the source lies in front of the patient.
    assert Pose.from_view("AP", center, CARM).camera_to_ras[1, 3] > center[1] + 500


@given(twists())
def test_offsets_come_back(offset):
    center, rotation = np.array([5.0, 6, 7]), view_rotation("AP")
    pose = Pose.about(rotation, center, CARM, offset)
    again = Pose.about(rotation, center, CARM, pose.offset_from(rotation, center, CARM))
    np.testing.assert_allclose(again.camera_to_ras, pose.camera_to_ras, atol=1e-6)


def test_pose_files(tmp_path):
    one = Pose.from_view("AP", [1, 2, 3], CARM)
    two = Pose.from_view("LEFT_LATERAL", [1, 2, 3], CARM)
    one.write(tmp_path / "one.json")
    np.testing.assert_allclose(Pose.read(tmp_path / "one.json").camera_to_ras, one.camera_to_ras, atol=1e-12)
    write_json(tmp_path / "two.json", {"views": [one.to_json(), two.to_json()]})
    assert len(read_poses(tmp_path / "two.json")) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "not valid JSON"),
        ("[1, 2]", "list"),
        ("{}", "lacks 'cameraToRAS'"),
        ('{"views": []}', "views"),
        ('{"views": 3}', "views"),
        ('{"views": [7]}', "lacks 'cameraToRAS'"),
        ('{"cameraToRAS": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}', "shape (3, 3)"),
        ('{"cameraToRAS": [1, 2, 3]}', "shape (3,)"),
        ('{"cameraToRAS": "identity"}', "4x4"),
        ('{"cameraToRAS": [[1, 0], [0]]}', "4x4"),
        ('{"cameraToRAS": [[2,0,0,0],[0,2,0,0],[0,0,2,0],[0,0,0,1]]}', "not rigid"),
        ('{"cameraToRAS": [[-1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}', "not rigid"),
        ('{"cameraToRAS": [[1,0,0,NaN],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}', "not finite"),
    ],
)
def test_wrong_pose_files_are_refused_in_one_line(tmp_path, content, words):
    file = tmp_path / "pose.json"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        read_poses(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_missing_pose_file():
    with pytest.raises(InputError, match="nowhere.json does not exist"):
        read_poses("nowhere.json")


def test_rounded_poses_are_accepted_and_made_exact(tmp_path):
    pose = Pose.about(view_rotation("AP"), [0, 0, 0], CARM, [0.1, 0.2, 0.3, 4, 5, 6])
    write_json(tmp_path / "rounded.json", {"cameraToRAS": np.round(pose.camera_to_ras, 5).tolist()})
    read = Pose.read(tmp_path / "rounded.json")
    assert se3.rigidity_error(read.camera_to_ras) < 1e-13
    assert abs(read.camera_to_ras - pose.camera_to_ras).max() < 1e-4
