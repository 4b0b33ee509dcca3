"""From a case's name to its problem: the CT, the X-ray and the truth, made or read, the same every time.

What a process has made ready (a CT, its pyramid, plastimatch's copy of it) is kept for its next case.
"""

from __future__ import annotations

import atexit
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..evaluation.cases import BENCH_CARM, offset_start, random_poses, shortened
from ..evaluation.metrics import default_points
from ..evaluation.plastimatch import Plastimatch
from ..evaluation.public_ct import PUBLIC_CTS, public_ct
from ..evaluation.stress import CLEAN, FACTORS, Exposure, expose, given_carm, given_ct, several
from ..geometry.carm import CArm
from ..geometry.pose import Pose
from ..geometry.se3 import Array
from ..imaging.ct import CTVolume
from ..imaging.xray import XrayImage
from ..registration.register import Registrar
from ..rendering.renderer import render
from .methods import Problem
from .plan import Case, Study

# Longest side of a real X-ray as it is registered, pixels.
_REAL_PIXELS = 512


@dataclass(frozen=True, eq=False)
class Posed:
    """A case made: the problem, and what it is judged by.

    Attributes:
        problem: what the methods get.
        truth, carm: the true pose and camera.
        points: (n, 3) RAS mm that errors are measured at.
        reprojection: of a dataset's X-ray, how far its landmarks are from where the truth projects them, pixels.
    """

    problem: Problem
    truth: Pose
    carm: CArm
    points: Array
    reprojection: float | None = None


class Workshop:
    """Keeps what cases of one CT share. One is enough for a process; cases come CT by CT."""

    def __init__(self) -> None:
        self._key: Any = None
        self._made: dict[str, Any] = {}

    def close(self) -> None:
        """Remove temporary files."""
        tracer = self._made.pop("plastimatch", None)
        if tracer is not None:
            tracer.close()
        self._key, self._made = None, {}

    def posed(self, study: Study, case: Case) -> Posed:
        """Make or read a case.

        Raises:
            InputError: a file is missing or damaged, or plastimatch is not there.
        """
        key = (case.ct, str(study.dataset))
        if key != self._key:
            self.close()
            self._key = key
        return self._real(study, case) if study.dataset else self._simulated(study, case)

    def _simulated(self, study: Study, case: Case) -> Posed:
        if "ct" not in self._made:
            file = public_ct(case.ct) if case.ct in PUBLIC_CTS else case.ct
            self._made["ct"] = CTVolume.read(file)
            self._made["short"] = shortened(self._made["ct"])
        ct, short = self._made["ct"], self._made["short"]
        rng = case.rng(study.seed, case.subject, case.view)
        truth = random_poses(short, 1, rng, study.rotation, study.translation, case.view)[0]
        carm = BENCH_CARM.resized((study.pixels, study.pixels))
        exposure = exposure_of(study, case)
        if study.simulator == "own":
            integrals = render(ct, carm, truth)
        else:
            if "plastimatch" not in self._made:
                self._made["plastimatch"] = Plastimatch(ct)
            integrals = self._made["plastimatch"].drr(carm, truth)
        rng = case.rng(study.seed, case.subject, case.view, case.factor)
        stored = expose(integrals, exposure, rng)
        given = given_ct(short, exposure, rng)
        told = given_carm(carm, exposure)
        points = default_points(short.center)
        problem = Problem(
            XrayImage.from_array(stored.integers, told),
            self._registrar(given, short.center),
            offset_start(
                truth, short.center, case.rng(study.seed, case.subject, case.start), *study.starts[case.start]
            ),
            Pose.from_view(case.view, short.center, carm),
            study.rotation,
            study.translation,
            case.view,
        )
        return Posed(problem, truth, carm, points)

    def _real(self, study: Study, case: Case) -> Posed:
        from ..evaluation.datasets import read_deepfluoro, read_ljubljana

        if "subject" not in self._made:
            read = {"deepfluoro": read_deepfluoro, "ljubljana": read_ljubljana}[study.dataset["kind"]]
            self._made["subject"] = read(study.dataset["file"], case.ct)
        subject = self._made["subject"]
        if case.number >= len(subject.fluoroscopies):
            raise InputError(f"{case.ct} has {len(subject.fluoroscopies)} X-rays only.")
        fluoroscopy = subject.read(subject.fluoroscopies[case.number])
        rows, columns = fluoroscopy.xray.carm.image_size
        factor = max(1.0, max(rows, columns) / _REAL_PIXELS)
        xray = fluoroscopy.xray.resized(round(rows / factor), round(columns / factor))
        truth, center = fluoroscopy.pose, subject.ct.center
        points = subject.points if len(subject.landmarks) else default_points(center)
        axes = Pose.from_view("AP", center, xray.carm)
        problem = Problem(
            xray,
            self._registrar(subject.ct, center),
            offset_start(truth, center, case.rng(study.seed, case.subject, case.start), *study.starts[case.start]),
            axes,
            study.rotation,
            study.translation,
        )
        return Posed(problem, truth, xray.carm, points, fluoroscopy.reprojection)

    def _registrar(self, ct: CTVolume, center: Array) -> Registrar:
        """One whose pyramid is built, so that the first case takes no longer than the others."""
        kept = self._made.get("registrar")
        if kept is None or kept.ct.hu.shape != ct.hu.shape or not np.array_equal(kept.ct.affine, ct.affine):
            kept = Registrar(ct, "cpu", center)
            for spacing in (8.0, 4.0, 2.0, 1.0):
                kept.projector(spacing)
            kept.prisms()
            self._made["registrar"] = kept
        return kept


def exposure_of(study: Study, case: Case) -> Exposure:
    """How a case's X-ray is made."""
    rng = case.rng(study.seed, case.factor)
    if case.factor == "clean":
        return CLEAN
    return several(rng) if case.factor == "several" else FACTORS[case.factor](rng)


def with_model(problem: Problem, folder: str | None) -> Problem:
    """The problem with a network at hand."""
    return replace(problem, model=folder)


WORKSHOP = Workshop()
atexit.register(WORKSHOP.close)
