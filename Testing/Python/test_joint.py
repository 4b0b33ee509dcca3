"""Several views and structures at once: derivatives against finite differences, and what is found beside the pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, InputError, Pose, XrayImage, register
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.geometry.se3 import inverse, turn_about
from DiffPoseSlicerLib.registration.joint import GeometryPriors, JointObjective, State, Structure, calibrated
from DiffPoseSlicerLib.registration.register import Registrar
from DiffPoseSlicerLib.registration.relations import read_rig, relative_from_poses
from DiffPoseSlicerLib.registration.starts import turned
from DiffPoseSlicerLib.registration.views import View
from DiffPoseSlicerLib.rendering.renderer import Projector

CARM = CArm(1020.0, (96, 108), (2.9, 2.7), (52.0, 50.5), intensity="transmission")
VIEWS = ("AP", "LEFT_LATERAL")


@pytest.fixture(scope="module")
def registrar(small_ct: CTVolume) -> Registrar:
    return Registrar(small_ct, "cpu")


@pytest.fixture(scope="module")
def nominal(small_ct: CTVolume) -> list[Pose]:
    return [Pose.from_view(view, small_ct, CARM) for view in VIEWS]


def _xray(ct: CTVolume, pose: Pose, carm: CArm, told: CArm | None = None, seed: int = 0) -> XrayImage:
    image = np.exp(-Projector(ct.level(0), "cpu").project(carm, pose.camera_to_ras).reshape(carm.image_size))
    noisy = np.random.default_rng(seed).poisson(image * 2e4) / 2e4
    return XrayImage.from_array(np.clip(noisy * 30000, 0, 60000).astype(np.uint16), told or carm)


def _moved(ct: CTVolume, poses: list[Pose], offset: list[float]) -> list[Pose]:
    """The poses of all views when the patient lies otherwise by an offset (omega, v) in the first view's axes."""
    first = turned(poses[0].ras_to_camera, ct.center, np.array([offset]))[0]
    return [Pose(inverse(other @ first)) for other in relative_from_poses(poses)]


def test_derivatives_by_every_parameter(small_ct: CTVolume, nominal: list[Pose]):
    """Two structures in two views, all that can be free: half the slope of the cost, against central differences."""
    smooth = small_ct.level(12)
    middle = small_ct.hu.shape[2] // 2
    halves = [small_ct.hu.copy(), small_ct.hu.copy()]
    halves[0][:, :, middle:], halves[1][:, :, :middle] = -1000, -1000
    parts = [CTVolume.from_array(half, small_ct.affine) for half in halves]
    structures = [
        Structure(Projector(part.level(12), "cpu", 0.5), [], np.eye(4), small_ct.center + [20 * side, 5, -8])
        for part, side in zip(parts, (-1, 1), strict=True)
    ]
    relative = relative_from_poses(nominal)
    views = []
    for pose, other in zip(nominal, relative, strict=True):
        image = Projector(smooth, "cpu").project(CARM, pose.camera_to_ras).reshape(CARM.image_size)
        xray = XrayImage.from_array(np.exp(-image), CARM)
        views.append(View.prepare(xray, 16, other, robust=False, isolated=False))
    start = np.stack([nominal[0].ras_to_camera] * 2)
    for row, structure in enumerate(structures):
        start[row] = turned(start[row], structure.center, np.array([[0.02, -0.03, 0.03, 2, -3, 5 + row]]))[0]
    priors = GeometryPriors(angle=1.0, shift=5.0)
    objective = JointObjective(views, structures, priors, State.stated(start, 2))
    state = objective.moved(State.stated(start, 2), np.linspace(-0.5, 0.5, len(objective.free)) * objective.scale)
    terms = objective.evaluate(state, None)
    free = np.flatnonzero(objective.free)
    assert len(free) == 2 * 6 + 6 + 2 * 3
    slopes = []
    for parameter in free:
        step = np.zeros(len(objective.free))
        step[parameter] = 0.5 * objective.scale[parameter] if parameter < 12 else 0.05 * objective.scale[parameter]
        up, down = (objective.evaluate(objective.moved(state, s * step), None).cost[0] for s in (1, -1))
        slopes.append((up - down) / (2 * step[parameter]))
    scale = objective.scale[free]
    found, truth = 2 * terms.gradient[0][free] * scale, np.array(slopes) * scale
    np.testing.assert_allclose(found, truth, atol=0.04 * np.abs(truth).max())
    assert np.corrcoef(found, truth)[0, 1] > 0.999
    assert np.linalg.eigvalsh(terms.matrix[0][np.ix_(free, free)]).min() > 0


def test_a_wrong_distance_is_found_in_two_views(small_ct: CTVolume, registrar: Registrar, nominal: list[Pose]):
    truth = _moved(small_ct, nominal, [0.1, -0.08, 0.05, 10, -8, 12])
    told = replace(CARM, source_to_detector=1.05 * CARM.source_to_detector)
    xrays = [_xray(small_ct, pose, CARM, told, seed) for seed, pose in enumerate(truth)]
    points = default_points(small_ct.center)
    relative = relative_from_poses(nominal)[1:]
    believed = register(
        small_ct, xrays, nominal, relative=relative, geometry=GeometryPriors(0, 0, 0, 0), registrar=registrar
    )
    found = register(small_ct, xrays, nominal, relative=relative, registrar=registrar)
    assert mtre(found.pose, truth[0], points) < 0.5 < mtre(believed.pose, truth[0], points)
    assert believed.carms is None
    for carm in found.carms:
        assert carm.source_to_detector == pytest.approx(CARM.source_to_detector, rel=0.01)
    written = found.to_json()["views"]
    assert [view["carm"]["sourceToDetector"] for view in written] == [c.source_to_detector for c in found.carms]
    assert found.hypotheses[0].pose.camera_to_ras == pytest.approx(found.pose.camera_to_ras)
    assert [step.level for step in found.history] == sorted(step.level for step in found.history)


def test_the_calibration_of_a_single_view_stays(small_ct: CTVolume, registrar: Registrar, nominal: list[Pose]):
    xray = _xray(small_ct, nominal[0], CARM)
    assert register(small_ct, xray, nominal[0], geometry=GeometryPriors(), registrar=registrar).carms is None
    view = View.prepare(xray, 16, np.eye(4), False, False)
    structure = Structure(registrar.projector(8.0), [], np.eye(4), small_ct.center)
    start = State.stated(nominal[0].ras_to_camera[None], 1)
    assert JointObjective([view], [structure], GeometryPriors(2, 5), start).free.sum() == 6


def test_a_turned_readout_is_found(small_ct: CTVolume, registrar: Registrar, nominal: list[Pose]):
    """The second view stands 3 degrees and 6 mm beside what its angles say."""
    truth = _moved(small_ct, nominal, [0.05, -0.08, 0.05, 8, -8, 6])
    pivot = truth[1].ras_to_camera[:3, :3] @ small_ct.center + truth[1].ras_to_camera[:3, 3]
    off = turn_about([0.03, -0.04, 0.02, 4, -3, 3], pivot)
    truth[1] = Pose(inverse(off @ truth[1].ras_to_camera))
    xrays = [_xray(small_ct, pose, CARM, seed=seed) for seed, pose in enumerate(truth)]
    points = default_points(small_ct.center)
    priors = GeometryPriors(angle=2.0, shift=5.0, distance=0.0, principal_point=0.0)
    stiff = register(small_ct, xrays, nominal, geometry=GeometryPriors(0, 0, 0, 0), registrar=registrar)
    found = register(small_ct, xrays, nominal, geometry=priors, registrar=registrar)
    for pose, told, expected in zip(found.poses, stiff.poses, truth, strict=True):
        assert mtre(pose, expected, points) < min(1.5, 0.4 * mtre(told, expected, points))


def test_a_search_of_two_views_needs_their_views_only(small_ct: CTVolume, registrar: Registrar, nominal: list[Pose]):
    truth = _moved(small_ct, nominal, [0.2, -0.3, 0.2, 25, -20, 30])
    xrays = [_xray(small_ct, pose, CARM, seed=seed) for seed, pose in enumerate(truth)]
    found = register(small_ct, xrays, "search", view=VIEWS, registrar=registrar)
    assert mtre(found.pose, truth[0], default_points(small_ct.center)) < 0.5
    assert found.c0 == pytest.approx(nominal[0].camera_to_ras)


def test_what_is_not_said_of_several_views_is_asked_for(small_ct, registrar, nominal, tmp_path):
    xray = XrayImage.from_array(np.random.default_rng(0).uniform(0.2, 1, CARM.image_size), CARM)
    with pytest.raises(InputError, match="lie to each other is not known"):
        register(small_ct, [xray, xray], "search", view="AP", registrar=registrar)
    with pytest.raises(InputError, match="3 views and 2 X-rays"):
        register(small_ct, [xray, xray], "search", view=["AP", "PA", "AP"], registrar=registrar)
    with pytest.raises(InputError, match="2 relative poses and 2 X-rays"):
        register(small_ct, [xray, xray], nominal[0], relative=[np.diag([1.0, -1, -1, 1])] * 2, registrar=registrar)
    with pytest.raises(InputError, match="uncertainty shift is -1"):
        GeometryPriors(shift=-1)
    (tmp_path / "rig.json").write_text("{}")
    with pytest.raises(InputError, match="camera1ToCamera2"):
        read_rig(tmp_path / "rig.json")


def test_a_calibrated_camera_shifts_by_millimetres():
    carm = calibrated(CARM, np.array([10.0, 5.4, -2.9]))
    assert carm.source_to_detector == 1030
    assert carm.principal_point == pytest.approx((54.0, 49.5))
