"""The methods of others that we compare with: their scores, their parameters, their optimiser."""

from __future__ import annotations

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, Pose, XrayImage, render
from DiffPoseSlicerLib.errors import Cancelled, InputError
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.geometry.se3 import so3_log
from DiffPoseSlicerLib.registration.comparison.first_order import FirstOrder, register_first_order
from DiffPoseSlicerLib.registration.comparison.parameters import PARAMETERISATIONS
from DiffPoseSlicerLib.registration.comparison.scores import SCORES, local_ncc
from DiffPoseSlicerLib.registration.register import Registrar


@pytest.mark.parametrize("name", SCORES)
def test_scores_have_exact_derivatives(name: str) -> None:
    rng = np.random.default_rng(3)
    fixed, moving = rng.normal(size=(2, 18, 21))
    value, gradient = SCORES[name](fixed, moving)
    for row, column in ((0, 0), (9, 10), (17, 3), (4, 20)):
        step = np.zeros_like(moving)
        step[row, column] = 1e-5
        difference = (SCORES[name](fixed, moving + step)[0] - SCORES[name](fixed, moving - step)[0]) / 2e-5
        assert gradient[row, column] == pytest.approx(difference, rel=1e-5, abs=1e-10)
    assert value < 0.5
    assert SCORES[name](fixed, 3 * fixed + 7)[0] == pytest.approx(1, abs=1e-4)


def test_local_correlation_is_the_mean_over_windows() -> None:
    rng = np.random.default_rng(4)
    fixed, moving = rng.normal(size=(2, 8, 9))
    windows = [
        np.corrcoef(fixed[r : r + 5, c : c + 5].ravel(), moving[r : r + 5, c : c + 5].ravel())[0, 1]
        for r in range(4)
        for c in range(5)
    ]
    assert local_ncc(fixed, moving, 5)[0] == pytest.approx(np.mean(windows), abs=1e-4)


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_parameters_move_as_their_twists_say(name: str) -> None:
    kind = PARAMETERISATIONS[name]
    assert np.allclose(kind.motion(kind.start), np.eye(4), atol=1e-12)
    rng = np.random.default_rng(5)
    parameters = kind.start + rng.uniform(-20, 20, len(kind.start))
    here = kind.motion(parameters)
    assert np.allclose(here[:3, :3] @ here[:3, :3].T, np.eye(3), atol=1e-12)
    step = rng.uniform(-1, 1, len(parameters)) * 1e-2
    moved = kind.motion(parameters + step)
    expected = np.concatenate([so3_log(moved[:3, :3] @ here[:3, :3].T), moved[:3, 3] - here[:3, 3]])
    assert kind.twists(parameters) @ step == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def scene(small_ct: CTVolume) -> tuple[Registrar, XrayImage, Pose, Pose, np.ndarray]:
    carm = CArm(1020.0, (96, 96), (3.2, 3.2), intensity="attenuation")
    nominal = Pose.from_view("AP", small_ct, carm)
    axes = nominal.camera_to_ras[:3, :3]
    truth = Pose.about(axes, small_ct.center, carm, [0.05, -0.04, 0.03, 4, -3, 5])
    xray = XrayImage.from_array(render(small_ct, carm, truth), carm)
    return Registrar(small_ct), xray, truth, nominal, default_points(small_ct.center)


@pytest.mark.parametrize(
    "how",
    [
        FirstOrder(pixels=(48,), iterations=100),
        FirstOrder(pixels=(48,), iterations=100, score="gradient", parameterisation="six"),
        FirstOrder(pixels=(96,), iterations=100, patches=60),
    ],
    ids=["whole image", "gradient, six", "patches"],
)
def test_first_order_finds_the_pose(scene: tuple, how: FirstOrder) -> None:
    registrar, xray, truth, start, points = scene
    result = register_first_order(registrar, xray, start, how)
    before, after = mtre(start, truth, points), mtre(result.pose, truth, points)
    assert before > 5
    assert after < 0.35 * before
    assert not result.trust.trusted and len(result.history) == result.iterations


def test_a_plateau_lowers_the_rate_and_the_second_ends_the_stage(scene: tuple) -> None:
    registrar, xray, truth, _, points = scene
    how = FirstOrder(pixels=(48,), iterations=400, rate=1.0, plateau=6)
    result = register_first_order(registrar, xray, truth, how)
    assert result.reason == "stalled"
    assert 14 <= result.iterations < 200
    assert mtre(result.pose, truth, points) < 3


def test_first_order_stops_when_asked_and_refuses_nonsense(scene: tuple) -> None:
    registrar, xray, _, start, _ = scene
    seen: list[int] = []
    with pytest.raises(Cancelled):
        register_first_order(
            registrar, xray, start, on_progress=lambda p: seen.append(p.iteration), cancel=lambda: len(seen) >= 2
        )
    assert seen == [1, 2]
    with pytest.raises(InputError, match="one X-ray"):
        register_first_order(registrar, [xray, xray], start)
    with pytest.raises(InputError, match="score is 'ssd'"):
        FirstOrder(score="ssd")
    with pytest.raises(InputError, match="parameterisation is"):
        FirstOrder(parameterisation="dual")


def test_nanodrr_in_place_of_our_renderer(scene: tuple) -> None:
    """The same picture, the same gradient within its sampling's error, and it leads to the same pose."""
    pytest.importorskip("nanodrr.drr", reason="needs the package nanodrr, which is not installed")
    from DiffPoseSlicerLib.registration.comparison import first_order
    from DiffPoseSlicerLib.rendering.torch_nanodrr import nanodrr_projector

    registrar, xray, truth, start, points = scene
    carm = xray.carm.resized((48, 48))
    ours = first_order._ours(registrar.projector(4.0))
    theirs = nanodrr_projector(registrar.ct.level(4.0))
    (image, pull), (other, pull_other) = (
        one(carm, start.camera_to_ras, None, registrar.center) for one in (ours, theirs)
    )
    assert np.corrcoef(image, other)[0, 1] > 0.999
    gradient = (image - image.mean()) * np.linspace(0, 1, image.size)
    assert pull_other(gradient)[:3] == pytest.approx(pull(gradient)[:3], rel=0.3)
    how = FirstOrder(pixels=(48,), iterations=60)
    result = register_first_order(registrar, xray, start, how, projector=nanodrr_projector)
    assert mtre(result.pose, truth, points) < 0.5 * mtre(start, truth, points)
