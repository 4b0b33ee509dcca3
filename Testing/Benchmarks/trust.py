"""Calibration and test of trust: does a result know when it failed, and by how much it may be off?

    python3 Testing/run.py bench trust [--workers 2] [--minutes 8] [--size 1.0] [--ship]
    python3 Testing/run.py bench trust --stage images|calibration|test|figures [--cts chest chest-metal pelvis]

Registers simulated successes and failures of three CTs (evaluation/trust_cases.py), twice: once to calibrate, once to
test, with other seeds and other severities. The model that judges a CT's test cases was fitted without that CT. Writes
cases (one line of JSON each), figures.json, reliability.png, roc.png and table.md to out/bench/trust. Every case is
kept as soon as it is done: started again, the same command goes on, and ends after --minutes. --ship writes the model
of all calibration cases into the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import trust_fit

from DiffPoseSlicerLib.evaluation.metrics import mtre, wilson_interval
from DiffPoseSlicerLib.evaluation.public_ct import PUBLIC_CTS, cache_folder
from DiffPoseSlicerLib.evaluation.trust_cases import KINDS, SPLITS, STRANGERS, TrustCase, make, prepare, recipes
from DiffPoseSlicerLib.geometry.files import write_json
from DiffPoseSlicerLib.registration.descent import PLAN
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.registration.result import RegistrationResult
from DiffPoseSlicerLib.registration.starts import spread
from DiffPoseSlicerLib.registration.trust import CALIBRATION, Model, limit_mm, reasons
from DiffPoseSlicerLib.registration.versions import versions

NEEDS_PEERS = False
COMMAND = "python3 Testing/run.py bench trust --ship"
IMAGES = "line-integrals"


def main(argv: list[str]) -> int:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench trust")
    parser.add_argument("--stage", choices=("all", "images", *SPLITS, "figures"), default="all")
    parser.add_argument("--cts", nargs="+", default=["chest", "chest-metal", "pelvis"])
    parser.add_argument("--size", type=float, default=1.0, help="a part of all cases")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop in time; start again to go on")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ship", action="store_true", help="put the calibration into the package")
    parser.add_argument("--out", type=Path, default=Path("out/bench/trust"))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.time() + 60 * options.minutes
    splits = [s for s in SPLITS if options.stage in ("all", s)] or (list(SPLITS) if options.stage == "images" else [])
    tasks = [
        (ct, split, options.size, str(options.out), end, options.stage == "images")
        for split in splits
        for ct in options.cts
    ]
    if options.workers > 1:
        os.environ["DIFFPOSESLICER_THREADS"] = "1"
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            whole = list(pool.map(_work, tasks))
    else:
        whole = [_work(task) for task in tasks]
    if options.stage in ("images", *SPLITS) or not all(whole):
        print("All done." if all(whole) else "Time is up; the same command goes on from here.")
        return 0
    return figures(options.out, options.cts, options.ship)


def _work(task: tuple[str, str, float, str, float, bool]) -> bool:
    """Do what a CT and split still lack until the time is up; whether nothing is left."""
    ct, split, size, folder, end, images = task
    if images:
        prepare(ct, split, size, cache_folder() / IMAGES)
        return True
    file = Path(folder, f"{split}-{ct}.jsonl")
    done = {row["key"] for row in read_rows(file)}
    registrar: Registrar | None = None
    began, count = time.time(), 0
    prepared = False
    for recipe in recipes(ct, split, size):
        if recipe.key in done:
            continue
        if time.time() > end:
            return False
        if not prepared:
            prepare(ct, split, size, cache_folder() / IMAGES)
            prepared = True
        case = make(recipe, cache_folder() / IMAGES)
        if registrar is None or registrar.ct is not case.ct:
            registrar = Registrar(case.ct, "cpu")
        result = _register(case, registrar)
        error = None if case.truth is None else mtre(result.pose, case.truth, case.points)
        limit = limit_mm(case.ct)
        row = {
            "key": recipe.key,
            "split": split,
            "ct": ct,
            "kind": recipe.kind,
            "factor": recipe.factor,
            "error": error,
            "limit": limit,
            "good": error is not None and error < limit,
            "similarity": result.similarities[0],
            "seconds": result.seconds,
            "signs": {name: round(value, 5) for name, value in result.signs.items()},
        }
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        count += 1
        if count % 25 == 0:
            print(f"{ct:11} {split:11} {count} more in {time.time() - began:.0f} s", flush=True)
    return True


def _register(case: TrustCase, registrar: Registrar) -> RegistrationResult:
    """As the product does, but without trying other orientations, which only ever takes trust away.

    Failures on purpose get no second look either: from one vertebra off there must be no looking around, and where
    nothing fits, looking longer is nothing but long. Bent copies get it: what nearly fits is looked at closely.
    """
    if case.recipe.kind in ("natural", "deformed"):
        return register(case.ct, case.xray, case.start, registrar=registrar, orientations=False)
    first = case.start.ras_to_camera
    if case.recipe.kind == "vertebra":
        return registrar.register([case.xray], first[None], plan=PLAN[-2:])
    return registrar.register([case.xray], spread(first, registrar.center, *registrar.spread()))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Cases written so far; a half-written last line is left out."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _groups(row: dict[str, Any]) -> set[str]:
    """The CTs that a case shows or uses."""
    return {row["ct"], STRANGERS[row["ct"]]} if row["kind"] == "stranger" else {row["ct"]}


def figures(out: Path, cts: Sequence[str], ship: bool) -> int:
    """Fit, judge the test, write and print everything."""
    calibration, test = ([r for ct in cts for r in read_rows(out / f"{split}-{ct}.jsonl")] for split in SPLITS)
    crossed = trust_fit.crossed(calibration, _groups)
    good = np.array([row["good"] for row in calibration])
    threshold = trust_fit.threshold_of(crossed, good)
    provenance = {
        "command": COMMAND,
        "about": "simulated registrations; success is a mean error of 50 points within 80 mm below the limit",
        "cases": len(calibration),
        "successes": int(good.sum()),
        "cts": {ct: {n: PUBLIC_CTS[ct].files[n] for n in list(PUBLIC_CTS[ct].files)[:1]} for ct in cts},
        "split": "calibration",
        "sha256": hashlib.sha256(json.dumps(calibration, sort_keys=True).encode()).hexdigest(),
        "versions": versions("warp"),
    }
    shipped = trust_fit.fit(calibration, provenance, threshold)
    write_json(out / "trust.json", shipped.to_json())
    if ship:
        write_json(CALIBRATION, shipped.to_json())
        print(f"The calibration is in the package: {CALIBRATION.name}.")
    if not test:
        print("There are no test cases yet.")
        return 0
    models = {ct: trust_fit.fit([row for row in calibration if ct not in _groups(row)], {}, threshold) for ct in cts}
    report = judge(test, models)
    report["calibration"] = {"cases": len(calibration), "failures": int((~good).sum()), "threshold": threshold}
    write_json(out / "figures.json", report)
    (out / "table.md").write_text(table(report), encoding="utf-8")
    print(table(report))
    _plots(out, report)
    return 0


def judge(rows: list[dict[str, Any]], models: dict[str, Model]) -> dict[str, Any]:
    """All figures of test cases, each judged by the model of its CT."""
    probability = np.array([models[row["ct"]].probability(row["signs"], row["limit"]) for row in rows])
    bound = np.array([models[row["ct"]].error_mm(row["signs"], row["limit"]) for row in rows])
    good = np.array([row["good"] for row in rows])
    trusted = probability >= next(iter(models.values())).threshold
    error = np.array([np.nan if row["error"] is None else row["error"] for row in rows])
    bins = trust_fit.equal_mass(probability, good)
    fields = ("ct", "kind", "factor")
    strata = []
    for field in fields:
        for value in dict.fromkeys(row[field] for row in rows):
            mine = np.array([row[field] == value for row in rows])
            strata.append(_stratum(f"{field}: {value}", mine, probability, good, trusted, bound, error))
    for ct in models:
        for kind in KINDS:
            mine = np.array([row["ct"] == ct and row["kind"] == kind for row in rows])
            if mine.any():
                strata.append(_stratum(f"{ct}, {kind}", mine, probability, good, trusted, bound, error))
    words: dict[str, dict[str, int]] = {}
    for row, yes in zip(rows, trusted, strict=True):
        if not yes:
            counts = words.setdefault(row["kind"], {})
            first = reasons(row["signs"], row["limit"])[0]
            counts[first] = counts.get(first, 0) + 1
    wrong = int((trusted & ~good).sum())
    return {
        "cases": len(rows),
        "failures": int((~good).sum()),
        "failuresTrusted": wrong,
        "failuresTrustedWilson": wilson_interval(wrong, int((~good).sum())),
        "successesFlagged": float((~trusted[good]).mean()),
        "auroc": trust_fit.auroc(probability, good),
        "calibrationError": float(sum(abs(p - s) * n for p, s, n in bins) / len(rows)),
        "coverage": float((error[good] <= bound[good]).mean()),
        "bound": {str(q): float(np.percentile(bound[good & trusted], q)) for q in (10, 50, 90)},
        "worstStratum": max((abs(s["probability"] - s["success"]) for s in strata if s["cases"] >= 100), default=0.0),
        "bins": bins,
        "strata": strata,
        "reasons": words,
        "trustedFailures": [
            {"key": row["key"], "factor": row["factor"], "error": row["error"], "probability": round(float(p), 3)}
            for row, p, yes, ok in zip(rows, probability, trusted, good, strict=True)
            if yes and not ok
        ],
        "roc": _roc(probability, good),
    }


def _stratum(
    name: str,
    mine: np.ndarray,
    probability: np.ndarray,
    good: np.ndarray,
    trusted: np.ndarray,
    bound: np.ndarray,
    error: np.ndarray,
) -> dict[str, Any]:
    yes = mine & good
    return {
        "name": name,
        "cases": int(mine.sum()),
        "success": float(good[mine].mean()),
        "probability": float(probability[mine].mean()),
        "failures": int((mine & ~good).sum()),
        "failuresTrusted": int((mine & ~good & trusted).sum()),
        "successesFlagged": float((~trusted[yes]).mean()) if yes.any() else None,
        "coverage": float((error[yes] <= bound[yes]).mean()) if yes.any() else None,
    }


def _roc(probability: np.ndarray, good: np.ndarray) -> list[tuple[float, float]]:
    """(failures trusted, successes trusted) at each threshold."""
    return [
        (float((probability[~good] >= t).mean()), float((probability[good] >= t).mean()))
        for t in np.unique(np.concatenate([[0, 1.01], np.quantile(probability, np.linspace(0, 1, 200))]))
    ]


def table(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    low, high = report["failuresTrustedWilson"]
    lines = [
        "| | measured | wanted |",
        "|---|---|---|",
        f"| test cases, of them failures | {report['cases']}, {report['failures']} | 1200, 300 |",
        f"| failures trusted | {report['failuresTrusted']} ({100 * low:.1f} to {100 * high:.1f} %) | at most 1 % |",
        f"| successes flagged | {100 * report['successesFlagged']:.1f} % | at most 10 % |",
        f"| AUROC | {report['auroc']:.4f} | at least 0.97 |",
        f"| equal-mass calibration error | {report['calibrationError']:.3f} | at most 0.05 |",
        f"| worst stratum of 100 or more | {report['worstStratum']:.3f} | at most 0.07 |",
        f"| 90 % bound covers, of successes | {100 * report['coverage']:.1f} % | 85 to 95 % |",
        "",
        "| stratum | cases | success | mean p | failures trusted | successes flagged | bound covers |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in report["strata"]:
        flagged = "" if s["successesFlagged"] is None else f"{100 * s['successesFlagged']:.1f} %"
        covers = "" if s["coverage"] is None else f"{100 * s['coverage']:.0f} %"
        lines.append(
            f"| {s['name']} | {s['cases']} | {s['success']:.3f} | {s['probability']:.3f} | "
            f"{s['failuresTrusted']} of {s['failures']} | {flagged} | {covers} |"
        )
    lines += ["", "First reason given, of what is not trusted:", ""]
    for kind, counts in report["reasons"].items():
        each = "; ".join(f"{n} x {word}" for word, n in sorted(counts.items(), key=lambda item: -item[1]))
        lines.append(f"- {kind}: {each}")
    if report["trustedFailures"]:
        lines += ["", "Failures trusted:", ""]
        lines += [
            f"- {f['key']} ({f['factor']}): error {f['error']}, probability {f['probability']}"
            for f in report["trustedFailures"]
        ]
    return "\n".join(lines) + "\n"


def _plots(out: Path, report: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    stated, observed, counts = np.array(report["bins"]).T
    spans = np.array([wilson_interval(round(s * n), int(n)) for s, n in zip(observed, counts, strict=True)])
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    axes.errorbar(
        stated,
        observed,
        [np.maximum(observed - spans[:, 0], 0), np.maximum(spans[:, 1] - observed, 0)],
        fmt="o-",
        capsize=3,
    )
    axes.set(xlabel="stated probability", ylabel="share that succeeded", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"{report['cases']} cases in {len(stated)} bins, calibration error {report['calibrationError']:.3f}")
    figure.savefig(out / "reliability.png", dpi=120)
    plt.close(figure)
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    axes.plot(*np.array(report["roc"]).T, lw=2)
    bad = report["failuresTrusted"] / max(report["failures"], 1)
    axes.plot(bad, 1 - report["successesFlagged"], "o", label="threshold shipped")
    axes.set(xlabel="failures trusted", ylabel="successes trusted", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"AUROC {report['auroc']:.4f}")
    axes.legend(loc="lower right")
    figure.savefig(out / "roc.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
