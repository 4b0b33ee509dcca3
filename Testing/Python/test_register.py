"""Registration on the real chest CT: from far, with cut anatomy and scatter, of several views, under control."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, InputError, Pose, XrayImage
from DiffPoseSlicerLib.errors import Cancelled
from DiffPoseSlicerLib.evaluation.cases import offset_start
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.geometry.pose import view_rotation
from DiffPoseSlicerLib.geometry.se3 import inverse
from DiffPoseSlicerLib.registration.descent import PLAN, Level
from DiffPoseSlicerLib.registration.evidence import cut_prisms, ray_weights
from DiffPoseSlicerLib.registration.intensity import Scatter, smooth
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.registration.result import Hypothesis, RegistrationResult, Trust, hypotheses
from DiffPoseSlicerLib.registration.search import search as search_a_view
from DiffPoseSlicerLib.registration.similarity import LocalCorrelation, Patches
from DiffPoseSlicerLib.registration.starts import search, turned
from DiffPoseSlicerLib.registration.trust import shipped
from DiffPoseSlicerLib.registration.views import reduced
from DiffPoseSlicerLib.rendering.renderer import Projector

# Not square, off centre.
CARM = CArm(1020.0, (128, 144), (2.2, 2.0), (66.0, 70.5), intensity="transmission")


@pytest.fixture(scope="module")
def projector(small_ct: CTVolume) -> Projector:
    return Projector(small_ct.level(0), "cpu")


@pytest.fixture(scope="module")
def registrar(small_ct: CTVolume) -> Registrar:
    return Registrar(small_ct, "cpu")


@pytest.fixture(scope="module")
def success_signs(small_ct, projector, registrar) -> dict[str, float]:
    truth = _truth(small_ct, 3)
    return register(small_ct, _xray(projector, truth), truth, registrar=registrar).signs


def _xray(projector: Projector, pose: Pose, scatter: float = 0.0, carm: CArm = CARM, seed: int = 0) -> XrayImage:
    primary = np.exp(-projector.project(carm, pose.camera_to_ras).reshape(carm.image_size))
    image = primary + scatter * smooth(primary, max(carm.image_size) / 8)
    noisy = np.random.default_rng(seed).poisson(image * 2e4) / 2e4
    return XrayImage.from_array(np.clip(noisy * 30000, 0, 60000).astype(np.uint16), carm)


def _truth(ct: CTVolume, seed: int, view: str = "AP") -> Pose:
    rng = np.random.default_rng(seed)
    offset = rng.uniform(-1, 1, 6) * [0.3, 0.3, 0.3, 30, 30, 60]
    return Pose.about(view_rotation(view), ct.center, CARM, offset)


@pytest.mark.parametrize("seed", range(4))
def test_a_far_start_ends_below_a_millimetre(small_ct, projector, registrar, seed: int):
    truth = _truth(small_ct, seed)
    start = offset_start(truth, small_ct.center, np.random.default_rng(seed), 20, 40)
    points = default_points(small_ct.center)
    assert mtre(start, truth, points) > 10
    result = register(small_ct, _xray(projector, truth), start, registrar=registrar)
    assert mtre(result.pose, truth, points) < 1
    assert result.hypotheses[0].pose.camera_to_ras == pytest.approx(result.pose.camera_to_ras)
    assert result.trust.trusted and result.trust.probability > 0.8 and not result.trust.reasons
    assert result.expected_error_mm is not None and result.expected_error_mm < 2


def test_scatter_does_not_shift_depth(small_ct, projector, registrar):
    truth = _truth(small_ct, 5)
    result = register(small_ct, _xray(projector, truth, scatter=1.0), truth, registrar=registrar)
    assert mtre(result.pose, truth, default_points(small_ct.center)) < 1


def test_a_pedestal_taken_off_leaves_the_primary_image(small_ct, projector):
    truth = _truth(small_ct, 5)
    clean, foggy = (_xray(projector, truth, scatter=s, seed=1) for s in (0.0, 0.8))
    restored = Scatter(0.8).removed(foggy).pixels
    spread = lambda a: a - a.mean()  # noqa: E731  (the exposure is free)
    before = np.abs(spread(foggy.pixels) - spread(clean.pixels)).mean()
    assert np.abs(spread(restored) - spread(clean.pixels)).mean() < 0.4 * before


def test_a_search_needs_no_start(small_ct, projector, registrar):
    truth = _truth(small_ct, 6)
    result = register(small_ct, _xray(projector, truth), "search", view="AP", registrar=registrar)
    assert mtre(result.pose, truth, default_points(small_ct.center)) < 1
    assert result.start == "search"


def test_the_pose_found_is_the_most_probable_hypothesis(small_ct, projector, registrar):
    """Coarse levels agree better than fine ones, in a noisy image above all: their minima must not outrank it."""
    xray = _xray(projector, _truth(small_ct, 6))
    noise = np.random.default_rng(5).normal(0, 0.8, xray.pixels.shape).astype(np.float32)
    result = register(small_ct, replace(xray, pixels=xray.pixels + noise), "search", registrar=registrar, budget=60)
    best, *others = result.hypotheses
    assert best.pose.camera_to_ras == pytest.approx(result.pose.camera_to_ras)
    assert others
    assert best.similarity >= max(h.similarity for h in others)
    assert best.probability >= max(h.probability for h in others)


def test_the_neighbours_one_vertebra_off_are_tried(small_ct, projector, registrar):
    truth = _truth(small_ct, 6)
    xray, points = _xray(projector, truth), default_points(small_ct.center)
    result = registrar.register([xray], truth.ras_to_camera[None])  # one start alone
    others = [h for h in result.hypotheses[1:] if 15 < mtre(h.pose, truth, points) < 60]
    assert others and max(h.probability for h in others) < 0.1
    along = np.eye(4)
    along[2, 3] = 30.0
    off = registrar.register([xray], (truth.ras_to_camera @ along)[None])
    assert mtre(off.pose, truth, points) < 1


def test_a_search_finds_the_view_too(small_ct, projector, registrar):
    truth = _truth(small_ct, 4, "RIGHT_LATERAL")
    result = register(small_ct, _xray(projector, truth), "search", view="any", registrar=registrar)
    assert mtre(result.pose, truth, default_points(small_ct.center)) < 1
    nominal = Pose.from_view("RIGHT_LATERAL", small_ct, CARM)
    np.testing.assert_allclose(result.c0, nominal.camera_to_ras, atol=1e-9)
    # Minima of the other views are told as well, and are less likely.
    assert len(result.hypotheses) > 1
    assert sum(h.probability for h in result.hypotheses) == pytest.approx(1)
    assert result.hypotheses[0].probability > max(h.probability for h in result.hypotheses[1:])
    with pytest.raises(InputError, match="for a search"):
        register(small_ct, _xray(projector, truth), truth, view="any", registrar=registrar)


def test_anatomy_that_the_ct_lacks_neither_helps_nor_hurts(small_ct, projector):
    truth = _truth(small_ct, 7)
    length = small_ct.hu.shape[0] * small_ct.spacing[2]
    short = small_ct.cropped([0, 0, 0, 0, 0.1 * length, 0.2 * length])
    start = offset_start(truth, small_ct.center, np.random.default_rng(7), 10, 20)
    result = register(short, _xray(projector, truth), start, device="cpu")
    assert mtre(result.pose, truth, default_points(small_ct.center)) < 1


def test_rays_through_what_is_cut_off_carry_no_weight(small_ct):
    grid = small_ct.level(8.0)
    assert grid.cut_faces[4:] == (True, True)
    prisms = cut_prisms(grid)
    pose = Pose.from_view("AP", small_ct, CARM)
    axis = small_ct.affine[:3, 2] / np.linalg.norm(small_ct.affine[:3, 2])
    for shift, expected in ((0.0, 1.0), (0.8, 0.0)):
        # A camera moved along the patient looks at what the CT does not hold.
        moved = pose.camera_to_ras.copy()
        moved[:3, 3] += axis * shift * small_ct.hu.shape[0] * small_ct.spacing[2]
        middle = np.array([[0.0, 0.0, CARM.source_to_detector]])
        weight = ray_weights(prisms, np.linalg.inv(grid.affine), moved[None], middle)
        assert weight[0, 0] == expected
        # Asked for half of the rays at least, those that miss less than most are kept.
        wide = CARM.detector_points(CARM.pixel_grid()[::101])
        frame = np.linalg.inv(grid.affine)
        strict, lenient = (ray_weights(prisms, frame, moved[None], wide, least) for least in (0.0, 0.5))
        assert (lenient >= strict).all() and lenient.mean() > 0.4


def test_rays_that_leave_through_a_cut_face_stay_evidence(small_ct):
    """Cut in front and behind, as small scans are: every ray of an AP view misses some of the body there."""
    depth = small_ct.hu.shape[1] * small_ct.spacing[1]
    grid = small_ct.cropped([0, 0, 0.3 * depth, 0.3 * depth, 0, 0]).level(8.0)
    assert all(grid.cut_faces[2:4])
    prisms = [prism for prism in cut_prisms(grid) if prism.axis == 1]
    middle = np.array([[0.0, 0.0, CARM.source_to_detector]])
    for view, expected in (("AP", 1.0), ("LEFT_LATERAL", 1.0)):
        pose = Pose.from_view(view, small_ct, CARM)
        weight = ray_weights(prisms, np.linalg.inv(grid.affine), pose.camera_to_ras[None], middle)
        assert weight[0, 0] == expected
    # A lateral view that is moved in front of the CT looks along its cut face at what is not there.
    moved = Pose.from_view("LEFT_LATERAL", small_ct, CARM).camera_to_ras.copy()
    moved[:3, 3] += small_ct.affine[:3, 1] / small_ct.spacing[1] * 0.3 * depth
    assert ray_weights(prisms, np.linalg.inv(grid.affine), moved[None], middle)[0, 0] == 0.0


def test_a_scan_cut_on_all_sides_is_registered(small_ct, projector):
    truth = _truth(small_ct, 3)
    size = np.array(small_ct.hu.shape[::-1]) * small_ct.spacing
    mm = np.repeat(size * [0.12, 0.25, 0.1], 2)
    short = small_ct.cropped(mm)
    assert all(short.level(8.0).cut_faces[2:])
    start = offset_start(truth, small_ct.center, np.random.default_rng(3), 10, 20)
    result = register(short, _xray(projector, truth), start, device="cpu")
    assert mtre(result.pose, truth, default_points(small_ct.center)) < 2


def test_an_xray_is_reduced_as_a_detector_with_larger_pixels_would_see_it():
    """Photon noise biases a mean of logarithms, and with it depth."""
    counts = np.random.default_rng(2).poisson(8, (256, 256)).astype(np.uint16)
    counts[0, 0] = 8000  # white
    carm = CArm(1020.0, (256, 256), (1.0, 1.0), intensity="transmission")
    xray = XrayImage.from_array(counts, carm)
    level = np.median(reduced(xray, 16).pixels)
    assert level == pytest.approx(np.log(xray.conversion.white / 8), abs=0.02)
    assert np.median(xray.resized(16, 16).pixels) > level + 0.03


def test_a_doubtful_search_looks_again_at_starts_not_tried_yet():
    first = search(np.eye(4), np.zeros(3), 10, 45, 75)
    again = search(np.eye(4), np.zeros(3), 10, 45, 75, skip=10)
    whole = search(np.eye(4), np.zeros(3), 20, 45, 75)
    np.testing.assert_allclose(np.concatenate([first, again]), whole)


def _result(pose: Pose, similarity: float, probability: float, signs: dict | None = None) -> RegistrationResult:
    trust = Trust(probability > 0.8, probability, ())
    minima = [Hypothesis(pose, similarity, 1.0)]
    zero = np.zeros((6, 6))
    found = RegistrationResult([pose], [0.9], trust, zero, 1.0, np.zeros(3), np.eye(4), minima, 1, 0.0, "search", "")
    return replace(found, signs=signs or {})


class Recording:
    """A registrar that notes what it is asked; result n is sure from one on, and lies `apart` mm from the last."""

    isolated, center = False, np.zeros(3)

    def __init__(self, sure_from: int = 9, apart: float = 50.0) -> None:
        self.sure_from, self.apart = sure_from, apart
        self.patches: list[int] = []
        self.starts: list[np.ndarray] = []

    def register(self, xrays, candidates, *, plan=PLAN, **settings):
        self.patches.append(plan[0].patch)
        self.starts.append(candidates)
        number = len(self.patches)
        pose = np.eye(4)
        pose[0, 3] = number * self.apart
        return _result(Pose(pose), 0.95 + 0.01 * number, 0.99 if number >= self.sure_from else 0.9)


@pytest.mark.parametrize(("sure_from", "looks"), [(1, [32]), (2, [32, 32]), (3, [32, 32, 16]), (9, [32, 32, 16, 16])])
def test_a_search_looks_again_otherwise_until_it_is_sure(sure_from: int, looks: list[int]):
    registrar = Recording(sure_from)
    best = search_a_view(registrar, [], [Pose(np.eye(4))], 45, 75, None)
    assert registrar.patches == looks
    assert best.hypotheses[0].similarity == pytest.approx(0.95 + 0.01 * len(looks))
    assert len(best.hypotheses) == len(looks)  # what other looks came to is told
    starts = np.concatenate(registrar.starts[2:] or registrar.starts[:1]).reshape(-1, 16).round(9)
    assert len(np.unique(starts, axis=0)) == len(starts)  # quarters of the image are compared from new starts each time


def test_a_pose_found_again_from_elsewhere_ends_a_search():
    registrar = Recording(apart=0.5)
    search_a_view(registrar, [], [Pose(np.eye(4))], 45, 75, None)
    assert registrar.patches == [32, 32]


def test_further_looks_are_at_all_views_together_and_say_which_it_was():
    registrar = Recording(sure_from=4)
    near = np.eye(4)
    near[2, 3] = 30.0
    views = [Pose(np.diag([-1.0, 1, -1, 1])), Pose(near)]
    best = search_a_view(registrar, [], views, 45, 75, None)
    assert [len(starts) for starts in registrar.starts] == [192, 192, 2 * 192, 2 * 384]
    np.testing.assert_allclose(best.c0, near)


def test_what_tells_of_success_outranks_agreement(success_signs, small_ct):
    """A wrong pose may agree better where the CT lacks much of the image; its parts do not agree with each other."""
    torn = success_signs | {"halves": 40.0, "detail": 0.6, "rival": 1.2}
    moved = np.eye(4)
    moved[0, 3] = 50.0
    wrong, right = _result(Pose(moved), 0.97, 0.5, torn), _result(Pose(np.eye(4)), 0.93, 0.9, success_signs)
    for order in ([wrong, right, wrong, wrong], [right, wrong, wrong, wrong]):
        looks = iter(order)
        registrar = SimpleNamespace(
            ct=small_ct, isolated=False, center=np.zeros(3), register=lambda *_, looks=looks, **__: next(looks)
        )
        best = search_a_view(registrar, [], [Pose(np.eye(4))], 45, 75, None)
        np.testing.assert_allclose(best.pose.camera_to_ras, np.eye(4))
        assert [h.similarity for h in best.hypotheses] == [0.93, 0.97]
    unseen = success_signs | {"cut": 0.99}  # hardly anything can be compared: no reason for trust, but to choose by
    assert shipped().probability(unseen) == 0 and shipped().likelihood(unseen) > 0.5


def test_around_a_given_start_in_doubt_is_searched(small_ct, projector, registrar):
    """A start farther off than the first look reaches."""
    truth = _truth(small_ct, 3)
    offset = np.array([[0.59, -0.63, -0.73, -79.0, 71.0, 76.0]])
    start = Pose(inverse(turned(truth.ras_to_camera, small_ct.center, offset)[0]))
    xray, points = _xray(projector, truth), default_points(small_ct.center)
    hurried = register(small_ct, xray, start, registrar=registrar, budget=60)  # with a budget there is one look
    result = register(small_ct, xray, start, registrar=registrar)
    assert mtre(result.pose, truth, points) < 1 < 10 < mtre(hurried.pose, truth, points)
    assert result.start == "pose"
    np.testing.assert_allclose(result.c0, start.camera_to_ras)


def test_no_hypothesis_is_believed_more_than_the_one_chosen():
    pose = Pose(np.eye(4))
    chosen, better, worse = hypotheses([(pose, 0.93), (pose, 0.97), (pose, 0.91)])
    assert chosen.probability == better.probability > worse.probability
    assert better.similarity == 0.97


def test_a_level_may_look_around_what_it_keeps(small_ct, projector, registrar):
    """A solution in the wrong basin leads to the right one beside it."""
    truth = _truth(small_ct, 3)
    off = turned(truth.ras_to_camera, small_ct.center, np.array([[0.18, -0.15, 0.12, 24.0, -21.0, 30.0]]))
    alone = Level(48, 12, 1.25, 12, 1, detail=4.0)
    xray, points = _xray(projector, truth), default_points(small_ct.center)
    ends = [
        mtre(registrar.register([xray], off, plan=[level], judged=False).pose, truth, points)
        for level in (alone, replace(alone, spread=(12, 10.0, 20.0)))
    ]
    assert ends[1] < 5 < ends[0]


def test_a_known_result_is_only_looked_at_again():
    registrar = Recording(sure_from=1)
    known = _result(Pose(np.eye(4)), 0.9, 0.9)
    best = search_a_view(registrar, [], [Pose(np.eye(4))], 45, 75, None, known=known)
    assert registrar.patches == [32] and best.trust.trusted


def test_where_a_model_says_the_pose_likely_is_is_looked_at_first():
    registrar, middle = Recording(sure_from=2, apart=80.0), np.eye(4)
    middle[:3, 3] = 7.0, 0.0, 500.0
    known = _result(Pose(np.eye(4)), 0.9, 0.9)
    likely = Pose(np.linalg.inv(middle)), np.full(3, 4.0), np.full(3, 10.0)
    search_a_view(registrar, [], [Pose(np.eye(4))], 45, 75, None, known=known, likely=likely)
    close, wide = registrar.starts
    assert np.abs(close[:, :3, 3] - middle[:3, 3]).max() < 10 and len(registrar.starts) == 2
    assert np.abs(wide[:, :3, 3]).max() > 70


def test_a_model_that_guesses_wrong_is_helped_by_a_search_of_its_range(small_ct, projector, registrar):
    truth, nominal = _truth(small_ct, 3), Pose.about(view_rotation("AP"), small_ct.center, CARM)
    elsewhere = Pose.about(view_rotation("PA"), small_ct.center, CARM)
    model = SimpleNamespace(
        hypotheses=lambda xray: [elsewhere],
        likely=lambda xray: (elsewhere, np.full(3, 8.0), np.full(3, 10.0)),
        nominal=nominal,
        rotation=np.full(3, 30.0),
        translation=np.full(3, 60.0),
    )
    result = register(small_ct, _xray(projector, truth), model, registrar=registrar)
    assert mtre(result.pose, truth, default_points(small_ct.center)) < 1
    assert result.start == "model"
    np.testing.assert_allclose(result.c0, nominal.camera_to_ras)


def test_poses_that_hide_the_ct_do_not_rank_first(small_ct, projector):
    """With all but a few pixels unseen a chance agreement is easy; it must not beat a good one of the whole image."""
    truth = _truth(small_ct, 5)
    image = projector.project(CARM, truth.camera_to_ras[None]).reshape(1, -1)
    patches = Patches.tile(CARM.image_size, 16)
    values = patches.take(image.reshape(CARM.image_size)).reshape(1, -1)
    noisy = values + np.random.default_rng(1).normal(0, 0.05 * values.std(), values.shape)
    compare = LocalCorrelation(noisy.reshape(patches.count, -1), np.ones((patches.count, patches.size)))
    few = np.zeros_like(values)
    few[:, : 2 * patches.size] = 1
    noisy_but_whole = compare(values, None, np.ones_like(values)).score[0]
    good_but_tiny = compare(np.where(few > 0, noisy, noisy[:, ::-1]), None, few).score[0]
    assert noisy_but_whole > good_but_tiny


def test_patches_beyond_the_cuts_count_where_they_agree(small_ct, projector):
    """No one knows how much anatomy a cut takes away; what agrees in spite of it is evidence, what does not is none."""
    truth = _truth(small_ct, 2)
    patches = Patches.tile(CARM.image_size, 16)
    rendered = projector.project(CARM, truth.camera_to_ras, pixels=patches.pixels)[None]
    other = projector.project(CARM, _truth(small_ct, 3).camera_to_ras, pixels=patches.pixels)[None]
    compare = LocalCorrelation(rendered.reshape(patches.count, -1), np.ones((patches.count, patches.size)))
    half = np.repeat(np.arange(patches.count) % 2, patches.size)[None].astype(np.float32)
    seldom = half * np.repeat(np.arange(patches.count) % 16 == 1, patches.size)[None]
    right, wrong = (compare(image, None, seldom) for image in (rendered, other))
    everything = compare(rendered, None, None)
    assert right.evidence[0] == pytest.approx(everything.evidence[0], rel=0.02)
    assert wrong.evidence[0] < 0.5 * everything.evidence[0]
    assert right.score[0] > 0.99 and wrong.score[0] < 0.9
    # Where half of the image is known, it alone moves the pose, and all that agrees ranks it.
    known = compare(rendered, None, half)
    assert known.evidence[0] < 0.75 * everything.evidence[0]
    assert known.score[0] > 0.99


def test_a_pose_that_shows_next_to_nothing_is_not_better_than_a_poor_right_one(small_ct, projector):
    truth = _truth(small_ct, 2)
    patches = Patches.tile(CARM.image_size, 16)
    rendered = projector.project(CARM, truth.camera_to_ras, pixels=patches.pixels)[None]
    noisy = rendered + np.random.default_rng(0).normal(0, 0.6 * rendered.std(), rendered.shape)
    compare = LocalCorrelation(noisy.reshape(patches.count, -1), np.ones((patches.count, patches.size)))
    poor = compare(rendered, None, np.ones_like(rendered)).score[0]
    hidden = compare(rendered[:, ::-1].copy(), None, np.full_like(rendered, 1e-6)).score[0]
    assert poor > hidden + 0.02


def test_two_views_settle_depth_together(small_ct, projector, registrar):
    truths = [_truth(small_ct, 8), _truth(small_ct, 9, "LEFT_LATERAL")]
    xrays = [_xray(projector, truth) for truth in truths]
    start = offset_start(truths[0], small_ct.center, np.random.default_rng(8), 8, 15)
    # The second start is where the first view's error puts it: the relative pose is known.
    relative = truths[1].ras_to_camera @ inverse(truths[0].ras_to_camera)
    second = Pose(inverse(relative @ start.ras_to_camera))
    result = register(small_ct, xrays, [start, second], registrar=registrar)
    points = default_points(small_ct.center)
    for pose, truth in zip(result.poses, truths, strict=True):
        assert mtre(pose, truth, points) < 0.5
    kept = result.poses[1].ras_to_camera @ inverse(result.poses[0].ras_to_camera)
    assert kept == pytest.approx(relative, abs=1e-6)


def test_every_iteration_is_told_and_cancel_ends_the_work(small_ct, projector, registrar):
    truth = _truth(small_ct, 10)
    xray = _xray(projector, truth)
    told = []
    result = register(small_ct, xray, truth, registrar=registrar, on_progress=told.append)
    assert [step.iteration for step in told] == list(range(1, result.iterations + 1))
    assert told == result.history
    assert [step.level for step in told] == sorted(step.level for step in told)
    count = 0

    def cancel() -> bool:
        nonlocal count
        count += 1
        return count > 3

    with pytest.raises(Cancelled):
        register(small_ct, xray, truth, registrar=registrar, cancel=cancel)


def test_a_budget_returns_the_best_so_far(small_ct, projector, registrar):
    result = register(
        small_ct, _xray(projector, _truth(small_ct, 11)), _truth(small_ct, 11), registrar=registrar, budget=0.0
    )
    assert result.reason == "budget"


def test_the_result_file_holds_what_was_promised(small_ct, projector, registrar, tmp_path):
    truth = _truth(small_ct, 12)
    nominal = Pose.from_view("AP", small_ct, CARM)
    result = register(small_ct, _xray(projector, truth), truth, view="AP", registrar=registrar)
    result.write(tmp_path / "result.json")
    data = json.loads((tmp_path / "result.json").read_text())
    assert {"views", "ctToWorld", "trust", "expectedErrorMm", "covariance", "center", "c0", "hypotheses"} <= set(data)
    assert {"iterations", "seconds", "start", "versions"} <= set(data)
    np.testing.assert_allclose(data["c0"], nominal.camera_to_ras)
    np.testing.assert_allclose(
        np.array(data["ctToWorld"]) @ np.array(data["views"][0]["cameraToRAS"]), nominal.camera_to_ras, atol=1e-9
    )
    assert Pose.read(tmp_path / "result.json").camera_to_ras == pytest.approx(result.pose.camera_to_ras)
    covariance = np.array(data["covariance"])
    assert np.linalg.eigvalsh(covariance).min() > 0
    # Depth is what one view knows least of the three shifts.
    assert covariance[5, 5] > covariance[3, 3]
    assert covariance[5, 5] > covariance[4, 4]


def test_starts_that_do_not_fit_are_refused_in_words(small_ct, projector, registrar):
    xray = _xray(projector, _truth(small_ct, 13))
    with pytest.raises(InputError, match="2 poses and there are 1"):
        register(small_ct, xray, [_truth(small_ct, 0)] * 2, registrar=registrar)
    with pytest.raises(InputError, match="'nowhere'"):
        register(small_ct, xray, "nowhere", registrar=registrar)
    with pytest.raises(InputError, match="no X-ray"):
        register(small_ct, [], "search", registrar=registrar)


def test_the_plan_goes_from_coarse_to_fine():
    assert [level.pixels for level in PLAN] == sorted(level.pixels for level in PLAN)


@pytest.mark.parametrize("camera", [1, 2])
def test_the_real_wrist_fits_better_after_than_before(shared_data, camera: int):
    folder = shared_data / "wrist_biplane" / "frame0002"
    ct = CTVolume.read(folder / "radius.nii.gz")
    carm = CArm.read(folder / f"carm_cam{camera}.json")
    xray = XrayImage.read(folder / f"xray_cam{camera}.tiff", carm)
    start = Pose.read(folder / f"start_radius_cam{camera}.json")
    result = register(ct, xray, start, device="cpu")
    reference = json.loads((folder / "reference.json").read_text())["reference"]["radius"]["views"][camera - 1]
    points = ct.center + np.random.default_rng(0).uniform(-20, 20, (50, 3))
    seen = lambda pose: carm.project(points @ pose.ras_to_camera[:3, :3].T + pose.ras_to_camera[:3, 3])  # noqa: E731
    off = lambda pose: np.linalg.norm(seen(pose) - seen(Pose(reference["cameraToRAS"])), axis=1).mean()  # noqa: E731
    # The reference is good to about two degrees: the image plane is what can be judged, in pixels. One bone in one view
    # has poses a pixel apart that fit alike, and rounding (another numpy) decides between them.
    assert off(result.pose) < 0.8 * off(start)

    projector = Projector(ct.level(0), "cpu")

    def correlation(pose: Pose) -> float:
        drr = projector.project(carm, pose.camera_to_ras).reshape(carm.image_size)
        bone = drr > 0.02 * drr.max()
        if xray.mask is not None:
            bone &= xray.mask
        return float(np.corrcoef(drr[bone], xray.pixels[bone])[0, 1])

    assert correlation(result.pose) > correlation(start)
