"""The certificate: how often the whole pipeline finds the pose, on simulated fluoroscopies no network has seen.

Its cases are `trials`; none was used to train, stop or calibrate. The figures go to certificate.json, and to
certificate.html for people.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.files import read_json, write_json
from ..imaging.ct import CTVolume
from ..registration.versions import versions
from ..rendering.renderer import Projector
from ..rendering.threads import cores
from .model import PoseModel
from .trial_worker import TrialWorkers, is_whole
from .trials import CERTIFICATE_CASES, SUCCESS_MM, Outcome, Trials, in_order

FORMAT = 1
# Fewer cases than this make no certificate, only a first impression.
ENOUGH_CASES = 200
# So many cases are worth the seconds that processes take to start.
_WORTH_PROCESSES = 40
# A coarse level tells which device and backend render.
_PROBE_MM = 8.0
# The lower end of the success rate's interval must reach this.
TARGET = 0.9


def certify(
    folder: Path,
    ct: CTVolume,
    *,
    cases: int = ENOUGH_CASES,
    seconds: float = float("inf"),
    seed: int = 0,
    clutter: float = 0.0,
    display: float = 0.0,
    device: str = "auto",
    on_case: Callable[[int, list[Outcome]], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Try a finished model and write its certificate into the job folder.

    Args:
        folder: The job folder.
        ct: The CT it was trained on, as registration will use it.
        cases: How many to try.
        seconds: Stop after so long; fewer cases widen the interval.
        seed: Of the cases.
        clutter, display: Probabilities of instruments and collimation, and of display processing, in the images.
        device: "auto", "cpu" or "cuda:N".
        on_case: Called after each case with its number and all outcomes.
        cancel: Asked before each case; true ends with the cases there are.

    Returns:
        The content of certificate.json.

    Raises:
        InputError: the model's training is not finished, or it belongs to another CT.
    """
    model = PoseModel.load(folder)
    if model.notes:
        raise InputError(f"There is no certificate for {folder.name}: {' '.join(model.notes)}")
    if ct.fingerprint != model.fingerprint:
        raise InputError("The certificate must be made with the CT that the model was trained on; this is another.")
    deadline = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    going_on = lambda: not outcomes or not (time.monotonic() > deadline or (cancel and cancel()))  # noqa: E731
    probe = Projector(ct.level(_PROBE_MM), device)
    with _attempts(model, folder, ct, cases, probe.device, clutter=clutter, display=display) as (attempt, count):
        for outcome in in_order(attempt, cases, seed, CERTIFICATE_CASES, count, going_on):
            outcomes.append(outcome)
            if on_case:
                on_case(len(outcomes) - 1, outcomes)
    figures = summary(outcomes, model)
    figures |= {"clutter": clutter, "display": display, "versions": versions(probe.backend)}
    write_json(folder / "certificate.json", figures)
    from .certificate_page import page

    (folder / "certificate.html").write_text(page(figures), encoding="utf-8")
    return figures


@contextmanager
def _attempts(
    model: PoseModel, folder: Path, ct: CTVolume, cases: int, device: str, *, clutter: float, display: float
) -> Iterator[tuple[Callable[[list[int]], Outcome], int]]:
    """What tries a case, and how many at a time: processes of their own where they are worth starting."""
    if device == "cpu" and cores() > 1 and cases >= _WORTH_PROCESSES and is_whole(folder):
        with TrialWorkers(folder, clutter=clutter, display=display) as workers:
            yield workers.attempt, workers.count
    else:
        trials = Trials(ct, model.task, clutter=clutter, display=display, device=device)
        yield (lambda case: trials.attempt(model, case)), min(cores(), 2)


def summary(outcomes: list[Outcome], model: PoseModel) -> dict[str, Any]:
    """The figures of a certificate."""
    errors = np.array([o.error_mm for o in outcomes])
    network = np.array([o.network_mm for o in outcomes])
    offsets = np.array([o.offset for o in outcomes])
    good = errors < SUCCESS_MM
    trusted = np.array([o.trusted for o in outcomes])
    low, high = interval(int(good.sum()), len(good))
    reasons = []
    if len(outcomes) < ENOUGH_CASES:
        reasons.append(f"only {len(outcomes)} cases were tried; {ENOUGH_CASES} are needed")
    if low < TARGET:
        reasons.append(f"the success rate may be as low as {low:.0%}; {TARGET:.0%} is needed")
    percentiles = lambda values: {  # noqa: E731
        str(p): round(float(np.percentile(values, p)), 3) for p in (25, 50, 75, 90, 95, 100)
    }
    return {
        "format": FORMAT,
        "certified": not reasons,
        "reasons": reasons,
        "cases": len(outcomes),
        "successes": int(good.sum()),
        "successMm": SUCCESS_MM,
        "rate": float(good.mean()),
        "interval": [low, high],
        "errorMm": percentiles(errors),
        "networkMm": percentiles(network),
        "seconds": percentiles([o.seconds for o in outcomes]),
        "trusted": {"ofSuccesses": int((trusted & good).sum()), "ofFailures": int((trusted & ~good).sum())},
        "doubt95": float(np.percentile([o.doubt for o in outcomes], 95)),
        "captureMap": capture_map(offsets, good, model),
        "errors": [round(float(e), 3) for e in errors],
        "fingerprint": model.fingerprint,
        "task": model.task.to_json(),
        "training": {key: model.data.get(key) for key in ("preset", "step", "seconds", "validationMtreMm")},
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def capture_map(
    offsets: NDArray[np.float64], good: NDArray[np.bool_], model: PoseModel, bins: int = 4
) -> dict[str, Any]:
    """Successes and cases over the angle (rows) and the depth (columns) of the true pose."""
    angle = np.degrees(np.linalg.norm(offsets[:, :3], axis=1))
    depth = offsets[:, 5]
    angles = np.linspace(0, max(float(np.linalg.norm(model.rotation)), 1e-3), bins + 1)
    reach = max(float(model.translation[2]), 1e-3)
    depths = np.linspace(-reach, reach, bins + 1)
    row = np.clip(np.digitize(angle, angles) - 1, 0, bins - 1)
    column = np.clip(np.digitize(depth, depths) - 1, 0, bins - 1)
    count = np.zeros((bins, bins), int)
    success = np.zeros((bins, bins), int)
    np.add.at(count, (row, column), 1)
    np.add.at(success, (row, column), good.astype(int))
    return {
        "angleDegrees": angles.round(2).tolist(),
        "depthMm": depths.round(1).tolist(),
        "cases": count.tolist(),
        "successes": success.tolist(),
    }


def interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate."""
    if not trials:
        return 0.0, 1.0
    z2, rate = 1.959964**2, successes / trials
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = (z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2))) ** 0.5 / (1 + z2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def summary_line(figures: dict[str, Any]) -> str:
    """A certificate in one line."""
    low, high = figures["interval"]
    verdict = "Certified" if figures["certified"] else f"Not certified ({'; '.join(figures['reasons'])})"
    return (
        f"{verdict}: {figures['successes']} of {figures['cases']} simulated cases within {figures['successMm']:g} mm "
        f"({low:.0%} to {high:.0%}), median {figures['errorMm']['50']:.2f} mm in {figures['seconds']['50']:.2f} s."
    )


def read_certificate(folder: Path) -> dict[str, Any] | None:
    """The certificate of a job folder, or None where there is none.

    Raises:
        InputError: it is not readable or of another version.
    """
    if not (folder / "certificate.json").is_file():
        return None
    data = read_json(folder / "certificate.json", "certificate")
    if data.get("format") != FORMAT:
        raise InputError(
            f"The certificate has format {data.get('format')!r}, this version reads {FORMAT}: certify again."
        )
    return data
