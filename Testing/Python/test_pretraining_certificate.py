"""The certificate: its figures, what it refuses, and what it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="pretraining needs torch, which is not installed here")

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.pretraining.certificate import capture_map, certify, interval, read_certificate, summary
from DiffPoseSlicerLib.pretraining.certificate_page import page
from DiffPoseSlicerLib.pretraining.job import Job, read_status, run_job
from DiffPoseSlicerLib.pretraining.model import PoseModel
from DiffPoseSlicerLib.pretraining.settings import preset
from DiffPoseSlicerLib.pretraining.trial_worker import TrialWorkers, is_whole
from DiffPoseSlicerLib.pretraining.trials import (
    CERTIFICATE_CASES,
    STOPPING_CASES,
    Goal,
    Outcome,
    Trials,
    in_order,
)
from test_pretraining import phantom, task


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A job that was run to its end and its certificate with two cases."""
    ct = phantom()
    folder = tmp_path_factory.mktemp("certified") / "job"
    settings = preset("tiny", seconds=60.0, most_steps=3, cases=2, certify_seconds=100.0)
    run_job(Job.create(folder, ct, task(ct), settings, device="cpu").folder)
    return ct, folder


def outcomes(model: PoseModel, count: int, good: int) -> list[Outcome]:
    rng = np.random.default_rng(0)
    offsets = rng.uniform(-1, 1, (count, 6)) * model.task.ranges
    return [
        Outcome(tuple(offset), 5.0, 0.2 if n < good else 30.0, 0.5, n < good - 5, 1.0, 0.1)
        for n, offset in enumerate(offsets)
    ]


def test_the_interval_is_wilsons():
    # Newcombe, Stat. Med. 17 (1998): the score interval of 81 of 263.
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval(200, 200)[1] == pytest.approx(1) and interval(0, 5)[0] == 0 and interval(0, 0) == (0, 1)


def test_a_job_ends_with_its_certificate_on_its_own_cases(finished):
    ct, folder = finished
    figures = read_certificate(folder)
    assert figures["cases"] == 2 and len(figures["errors"]) == 2 and figures["fingerprint"] == ct.fingerprint
    assert not figures["certified"] and "only 2 cases" in figures["reasons"][0]
    assert sum(map(sum, figures["captureMap"]["cases"])) == 2
    status = read_status(folder)
    brief = status["certificate"]
    assert status["state"] == "done" and brief["cases"] == 2 and brief["certified"] is False
    assert brief["success"] == figures["rate"]
    text = (folder / "certificate.html").read_text(encoding="utf-8")
    assert "Not certified" in text and text.count("<svg") == 1
    assert "2 simulated cases" in (folder / "log.txt").read_text()
    assert json.dumps(figures).find(str(folder.parent)) < 0


def test_enough_good_cases_are_certified_and_too_many_failures_are_not(finished):
    model = PoseModel.load(finished[1])
    for good, certified in ((198, True), (170, False)):
        figures = summary(outcomes(model, 200, good), model)
        assert figures["certified"] is certified and figures["successes"] == good
        assert figures["interval"] == pytest.approx(list(interval(good, 200)))
        assert figures["trusted"] == {"ofSuccesses": good - 5, "ofFailures": 0}
        text = page(figures | {"versions": {}})
        assert ("Certified." in text) is certified
        assert f"{good - 5} of the {good} that succeeded and 0 of the {200 - good} that failed" in text
    assert "as low as" in figures["reasons"][0]


def test_the_capture_map_counts_every_case_where_it_lies(finished):
    model = PoseModel.load(finished[1])
    offsets = np.zeros((3, 6))
    offsets[1, :3] = np.deg2rad([20, 20, 20])
    offsets[2, 5] = 40
    counted = capture_map(offsets, np.array([True, False, True]), model, bins=2)
    assert counted["cases"] == [[0, 2], [0, 1]] and counted["successes"] == [[0, 2], [0, 0]]


def test_an_unfinished_model_and_another_ct_are_refused(finished, tmp_path):
    ct, folder = finished
    hu = ct.hu.copy()
    hu[0, 0, 0] += 1
    with pytest.raises(InputError, match="this is another"):
        certify(folder, CTVolume.from_array(hu, ct.affine), cases=1)
    job = Job.create(tmp_path / "job", ct, task(ct), preset("tiny", seconds=1e6), device="cpu")
    calls: list[int] = []
    run_job(job.folder, cancel=lambda: calls.append(1) or len(calls) > 50)
    assert read_status(job.folder)["state"] == "stopped" and read_certificate(job.folder) is None
    with pytest.raises(InputError, match="no certificate for job: The model is not finished"):
        certify(job.folder, ct, cases=1)


# Ending a training early ---------------------------------------------------------------------------------------------


class Scripted:
    """Trials whose cases succeed or fail as told; remembers which cases were asked for."""

    def __init__(self, *args, failing: frozenset[int] = frozenset(), **options) -> None:
        self.failing, self.asked = failing, []

    def run(self, model, count, seed, first, going_on=lambda: True):
        for number in range(count):
            if not going_on():
                return
            self.asked.append((seed, first + number))
            yield Outcome((0.0,) * 6, 5.0, 9.0 if number in self.failing else 0.2, 0.1, True, 1.0, 0.1)


def test_a_goal_is_passed_by_all_cases_and_given_up_when_out_of_reach():
    goal = Goal(0.98, 100, 3)
    two, three = frozenset({4, 99}), frozenset({0, 1, 40})
    assert goal.passed(Scripted(failing=two), None, 0) == (True, 0.98)
    trials = Scripted(failing=three)
    passed, rate = goal.passed(trials, None, 2)
    assert not passed and rate == pytest.approx(38 / 41) and len(trials.asked) == 41
    assert trials.asked[0] == (3, STOPPING_CASES + 200), "every trial takes cases of its own"
    assert goal.passed(Scripted(failing=frozenset(range(9))), None, 0) == (False, pytest.approx(0.1))
    calls = []
    asked = lambda: calls.append(1) or len(calls) < 5  # noqa: E731
    assert goal.passed(Scripted(), None, 0, asked) == (False, None), "somebody asked to stop: no verdict"


def test_cases_that_stop_a_training_never_certify_it(finished):
    """The numbers cannot meet, and numbers decide the images."""
    ct, _ = finished
    assert STOPPING_CASES - CERTIFICATE_CASES > 10**9
    trials = Trials(ct, task(ct), device="cpu")
    one, offset = trials.simulated([0, CERTIFICATE_CASES])
    again, _ = trials.simulated([0, CERTIFICATE_CASES])
    other, other_offset = trials.simulated([0, STOPPING_CASES])
    assert np.array_equal(one.pixels, again.pixels) and not np.allclose(offset, other_offset)
    assert not np.array_equal(one.pixels, other.pixels)


def test_processes_find_what_this_one_finds_and_a_lost_one_is_made_up_for(finished, monkeypatch):
    ct, folder = finished
    assert is_whole(folder)
    model, trials = PoseModel.load(folder), Trials(ct, task(ct), device="cpu")
    here = [trials.attempt(model, [1, CERTIFICATE_CASES + n]) for n in range(4)]
    monkeypatch.setenv("DIFFPOSESLICER_THREADS", "2")
    with TrialWorkers(folder) as workers:
        there = list(in_order(workers.attempt, 2, 1, CERTIFICATE_CASES, workers.count))
        processes = list(workers._processes)
        processes[0].kill()
        there += in_order(workers.attempt, 2, 1, CERTIFICATE_CASES + 2, workers.count)
        processes[1].kill()
        with pytest.raises(InputError, match="were ended from outside"):
            list(in_order(workers.attempt, 2, 1, CERTIFICATE_CASES, workers.count))
    for one, other in zip(here, there, strict=True):
        assert one.offset == other.offset and one.trusted == other.trusted
        assert one.network_mm == pytest.approx(other.network_mm, abs=1e-3)
        assert one.error_mm == pytest.approx(other.error_mm, abs=0.05)
    assert all(process.poll() is not None for process in processes)


def test_a_case_that_fails_says_why_and_the_process_goes_on(finished, monkeypatch):
    monkeypatch.setenv("DIFFPOSESLICER_THREADS", "1")
    with TrialWorkers(finished[1]) as workers:
        with pytest.raises(RuntimeError, match=r"Trial \['no number'\] failed: \w+Error: "):
            workers.attempt(["no number"])
        assert workers.attempt([1, CERTIFICATE_CASES]).network_mm > 0


def test_processes_end_with_the_one_that_asks(finished, monkeypatch):
    monkeypatch.setenv("DIFFPOSESLICER_THREADS", "1")
    workers = TrialWorkers(finished[1])
    (process,) = workers._processes
    process.stdin.close()  # as the system closes it for a process that is killed
    assert process.wait(60) == 0
    with workers:
        pass


def test_cases_come_in_order_and_alike_however_many_run_side_by_side(finished, monkeypatch):
    ct, folder = finished
    model, trials = PoseModel.load(folder), Trials(ct, task(ct), device="cpu")
    monkeypatch.setenv("DIFFPOSESLICER_THREADS", "1")
    alone = [(o.offset, o.network_mm, o.error_mm) for o in trials.run(model, 5, 1, CERTIFICATE_CASES)]
    monkeypatch.setenv("DIFFPOSESLICER_THREADS", "3")
    together = [(o.offset, o.network_mm, o.error_mm) for o in trials.run(model, 5, 1, CERTIFICATE_CASES)]
    for one, other in zip(alone, together, strict=True):
        assert one[0] == other[0] and one[1:] == pytest.approx(other[1:], abs=1e-6)
    assert len({offset for offset, *_ in alone}) == 5


def test_a_training_ends_when_its_pipeline_is_good_enough(tmp_path, monkeypatch):
    from DiffPoseSlicerLib.pretraining import trainer

    ct = phantom()
    settings = preset("tiny", seconds=12.0, target=0.9, trial_cases=20)
    job = Job.create(tmp_path / "job", ct, task(ct), settings, device="cpu")
    monkeypatch.setattr(trainer, "Trials", lambda *_, **__: Scripted(failing=frozenset({3})))
    reports = []
    status = run_job(job.folder, on_progress=reports.append)
    assert status["state"] == "done" and status["validationSuccess"] == 0.95 and status["secondsLeft"] == 0
    data = PoseModel.load(job.folder).data
    assert 0.25 * 12 <= data["passed"] < data["seconds"] < 9
    assert data["seconds"] - data["passed"] == pytest.approx(trainer.COOL_DOWN * 12, abs=1.0)
    rates = [r["rate"] for r in reports]
    assert rates[-1] == 0 and "Good enough" in (job.folder / "log.txt").read_text()
    # Given more time, it goes on learning.
    job.extend(2.0)
    run_job(job.folder)
    assert PoseModel.load(job.folder).data["step"] > data["step"]


def test_a_training_that_never_is_good_enough_uses_its_time(tmp_path, monkeypatch):
    from DiffPoseSlicerLib.pretraining import trainer

    ct = phantom()
    settings = preset("tiny", seconds=5.0, target=0.9, trial_cases=20)
    job = Job.create(tmp_path / "job", ct, task(ct), settings, device="cpu")
    monkeypatch.setattr(trainer, "Trials", lambda *_, **__: Scripted(failing=frozenset(range(20))))
    run_job(job.folder)
    data = PoseModel.load(job.folder).data
    assert data["passed"] is None and data["trials"] >= 1 and data["seconds"] >= 5
    assert read_status(job.folder)["validationSuccess"] == 0


def test_a_network_that_guesses_too_coarsely_is_not_tried(tmp_path, monkeypatch):
    from DiffPoseSlicerLib.pretraining import trainer

    ct = phantom()
    settings = preset("tiny", seconds=4.0, target=0.5, target_mm=1e-3)
    job = Job.create(tmp_path / "job", ct, task(ct), settings, device="cpu")
    monkeypatch.setattr(trainer, "Trials", lambda *_, **__: Scripted())
    run_job(job.folder)
    assert PoseModel.load(job.folder).data["trials"] == 0


def test_the_whole_pipeline_may_end_a_training(tmp_path):
    """Nothing scripted: real images, network and registration; the target is one that any model reaches."""
    ct = phantom()
    settings = preset("tiny", seconds=30.0, target=1e-12, trial_cases=2)
    job = Job.create(tmp_path / "job", ct, task(ct), settings, device="cpu")
    run_job(job.folder)
    data = PoseModel.load(job.folder).data
    assert data["trials"] == 1 and data["passed"] < data["seconds"] < 25


def test_register_says_what_a_model_was_not_certified_for(finished):
    from DiffPoseSlicerLib import register

    ct, folder = finished
    model = PoseModel.load(folder)
    trials = Trials(ct, model.task, device="cpu")
    xray, _ = trials.simulated([0, 1])
    result = register(ct, xray, model, device="cpu")
    assert [text for text in result.warnings if "only 2 cases" in text]
    hu = ct.hu.copy()
    hu[0, 0, 0] += 1
    result = register(CTVolume.from_array(hu, ct.affine), xray, model, device="cpu")
    assert [text for text in result.warnings if "another CT" in text]
    wide = task(ct, rotation=(1, 1, 1), translation=(200, 200, 1))
    outside = wide.pose([0, 0, 0, 60, 0, 0])
    assert [text for text in model.warnings(xray, outside) if "outside the range" in text]
    assert not [text for text in model.warnings(xray, model.nominal) if "outside the range" in text]


def test_a_model_warns_of_what_was_not_certified(finished):
    from dataclasses import replace

    from DiffPoseSlicerLib.imaging.xray import XrayImage

    model = PoseModel.load(finished[1])
    pixels = np.random.default_rng(0).normal(size=model.carm.image_size).astype(np.float32)
    own = XrayImage(pixels, model.carm)
    assert [text for text in model.warnings(own) if "only 2 cases" in text]
    # A detector half as far again that shows the same rays, and one that shows half of them.
    factor = 1.5 * np.array(model.carm.pixel_spacing)
    far = replace(model.carm, source_to_detector=1.5 * model.carm.source_to_detector, pixel_spacing=tuple(factor))
    assert [text for text in model.warnings(XrayImage(pixels, far)) if "the X-ray's is at 1500 mm" in text]
    half = replace(model.carm, pixel_spacing=(2.0, 4.0), principal_point=(37.0, 31.0))
    assert [text for text in model.warnings(XrayImage(pixels, half)) if "of the field of view" in text]
    model.certificate = {"certified": True, "reasons": [], "doubt95": 100.0}
    assert not [text for text in model.warnings(own) if "certif" in text and "outside" not in text]
