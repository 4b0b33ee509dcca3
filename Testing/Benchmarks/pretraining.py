"""Benchmark of pretraining: time to quality, certificate, and success on independent simulators.

    python3 Testing/run.py bench pretraining [--do images train certify try report] [--cts chest chest-metal]
        [--presets quick standard paper warm] [--seeds 0 1 2] [--sets plain alike cluttered polyenergetic] [--cases 200]
        [--no-certificate] [--settings optimiser=adamw second_looks=0 ... --out out/variant] [--anew]

Every training and every trial is a piece: what is done already is kept in out/bench/pretraining and not done again, so
pieces can run one at a time (a training wants the whole machine, a trial does not) and a killed run is gone on with.
"images" only makes the images (they are cached), "certify" makes a trained model's certificate anew. The report prints
all pieces there are.

For each CT and preset a job runs from nothing, on a CT that is 15 mm shorter at each face where the scan cuts tissue.
Reported: seconds to a median validation error of 20, 10 and 5 mm, images a second, the certificate's figures. Then the
network alone and the whole pipeline are tried on images of the whole CT:

- plain: by plastimatch (exact ray tracing, not our renderer), with scatter and noise;
- alike: the same rays, but dose, scatter and detector drawn as for the certificate, which covers a wider range of them;
- cluttered: the same with one to four instruments, a collimator, and a CT that lacks a part along z, drawn for each;
- polyenergetic: XCIST's spectra and cross sections along plastimatch's rays.

"paper" is DiffPose's recipe on our images with the same number of seconds as quick; "warm" is quick, begun with the
other CT's model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from DiffPoseSlicerLib.evaluation.cases import BENCH_CARM, Case, cases, line_integrals, random_poses, shortened
from DiffPoseSlicerLib.evaluation.metrics import default_points, difference_interval, mtre, wilson_interval
from DiffPoseSlicerLib.evaluation.public_ct import cache_folder, public_ct
from DiffPoseSlicerLib.evaluation.stress import CLEAN, Exposure
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.pretraining.certificate import certify, read_certificate, summary_line
from DiffPoseSlicerLib.pretraining.job import read_progress, read_status
from DiffPoseSlicerLib.pretraining.model import PoseModel
from DiffPoseSlicerLib.pretraining.pretrain import pretrain
from DiffPoseSlicerLib.pretraining.settings import Settings
from DiffPoseSlicerLib.pretraining.settings import preset as preset_named
from DiffPoseSlicerLib.pretraining.trials import fluoroscopy
from DiffPoseSlicerLib.registration.register import Registrar, register

NEEDS_PEERS = False
TRANSLATION = (50.0, 50.0, 100.0)
# Half-range of each component of the rotation, degrees.
ROTATION = {"quick": 30.0, "standard": 45.0, "thorough": 45.0, "paper": 30.0, "warm": 30.0}
LEVELS_MM = (20, 10, 5)
PIECES = ("images", "train", "certify", "try", "report")
SETS = ("plain", "cluttered", "polyenergetic", "alike")
OTHER = {"chest": "chest-metal", "chest-metal": "chest"}


def main(argv: list[str]) -> int:
    """Do the pieces asked for and print; see the module's text."""
    parser = argparse.ArgumentParser(prog="bench pretraining")
    parser.add_argument("--do", nargs="+", default=["train", "try", "report"], choices=PIECES)
    parser.add_argument("--presets", nargs="+", default=["quick", "standard", "paper"], choices=list(ROTATION))
    parser.add_argument(
        "--cts", nargs="+", default=["chest", "chest-metal"], choices=["chest", "chest-metal", "pelvis"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--sets", nargs="+", default=["plain"], choices=SETS)
    parser.add_argument("--cases", type=int, default=200, help="images a CT and set")
    parser.add_argument("--time-scale", type=float, default=1.0, help="factor on all presets' seconds")
    parser.add_argument("--no-certificate", action="store_true", help="train only; the report then has none")
    parser.add_argument(
        "--settings", nargs="+", default=[], metavar="NAME=VALUE", help="a variant; give it its own --out"
    )
    parser.add_argument("--anew", action="store_true", help="do pieces again that are done")
    parser.add_argument("--out", type=Path, default=Path("out/bench/pretraining"))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.cts if options.do != ["report"] else ():
        ct = CTVolume.read(public_ct(name, say=print))
        for preset in options.presets:
            for kind in options.sets if "images" in options.do else ():
                made = sum(1 for _ in images(ct, kind, ROTATION[preset], options.cases))
                print(f"{name}: {made} images, {kind}, +-{ROTATION[preset]:g} degrees")
            for seed in options.seeds:
                folder = options.out / f"{name}-{preset}-{seed}"
                if "train" in options.do:
                    train(name, ct, preset, seed, folder, options)
                if "certify" in options.do:
                    recertify(ct, seed, folder, settings_of(preset, options))
                for kind in options.sets if "try" in options.do else ():
                    try_model(ct, preset, kind, folder, options)
    if "report" in options.do:
        report(options.out)
    return 0


def settings_of(preset: str, options: argparse.Namespace) -> Settings:
    """A preset's settings as the command line changes them; "paper" takes as long as "quick" may."""
    settings = preset_named("quick" if preset == "warm" else preset)
    if preset == "paper":
        settings = replace(settings, seconds=preset_named("quick").seconds)
    scale = options.time_scale
    settings = replace(settings, seconds=settings.seconds * scale, certify_seconds=settings.certify_seconds * scale)
    if options.no_certificate:
        settings = replace(settings, cases=0)
    changes = {name: _value(text) for name, _, text in (entry.partition("=") for entry in options.settings)}
    unknown = changes.keys() - settings.to_json().keys()
    if unknown:
        raise SystemExit(
            f"There is no setting {', '.join(sorted(unknown))}; there are {', '.join(settings.to_json())}."
        )
    return Settings.from_json(settings.to_json() | changes)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a word
        return text


def train(name: str, ct: CTVolume, preset: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train one model, unless that is done."""
    piece = folder.with_suffix(".train.json")
    if piece.exists() and not options.anew:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for old in folder.parent.glob(f"{folder.name}.*.json"):
        old.unlink()
    settings = settings_of(preset, options)
    began, cpu = time.perf_counter(), time.process_time()
    model = pretrain(
        shortened(ct),
        BENCH_CARM,
        out=folder,
        rotation=(ROTATION[preset],) * 3,
        translation=TRANSLATION,
        preset=preset,
        settings=settings,
        seed=seed,
        warm_start=options.out / f"{OTHER[name]}-quick-{seed}" if preset == "warm" else None,
    )
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    reports = [r for r in read_progress(folder) if "validationMtreMm" in r]
    reached = {
        level: next((r["seconds"] for r in reports if r["validationMtreMm"] < level), None) for level in LEVELS_MM
    }
    row = {
        "ct": name,
        "preset": preset,
        "seed": seed,
        "wall": wall,
        "cpu": cpu,
        "steps": model.data["step"],
        "learning": model.data["seconds"],
        "passed": model.data["passed"],
        "imagesPerSecond": read_status(folder)["imagesPerSecond"],
        "reached": reached,
        "validationMtreMm": model.data["validationMtreMm"],
        "certificate": brief(read_certificate(folder) or {}),
    }
    piece.write_text(json.dumps(row, indent=1))
    print(training_line(row), flush=True)


def brief(certificate: dict[str, Any]) -> dict[str, Any]:
    """What the report needs of a certificate."""
    kept = ("cases", "successes", "rate", "interval", "certified", "trusted", "errorMm", "networkMm", "seconds")
    return {key: certificate.get(key) for key in kept}


def recertify(ct: CTVolume, seed: int, folder: Path, settings: Settings) -> None:
    """Make the certificate of a trained model by itself."""
    piece = folder.with_suffix(".train.json")
    row = json.loads(piece.read_text())
    began = time.perf_counter()
    made = certify(folder, shortened(ct), cases=settings.cases, seconds=settings.certify_seconds, seed=seed)
    piece.write_text(json.dumps(row | {"certificate": brief(made)}, indent=1))
    print(f"{folder.name}: certificate anew in {time.perf_counter() - began:.0f} s. {summary_line(made)}", flush=True)


def try_model(ct: CTVolume, preset: str, kind: str, folder: Path, options: argparse.Namespace) -> None:
    """Try one model on one set of images, unless that is done. All seeds of a preset see the same images."""
    piece = folder.with_suffix(f".{kind}.json")
    done = json.loads(piece.read_text()) if piece.exists() else {}
    if done.get("cases", 0) >= options.cases and not options.anew:
        return
    model, short = PoseModel.load(folder), shortened(ct)
    registrar = Registrar(short, center=model.center)
    network, errors, trusted, seconds = [], [], [], []
    for case in images(ct, kind, ROTATION[preset], options.cases):
        own = registrar if case.ct.fingerprint == short.fingerprint else Registrar(case.ct, center=model.center)
        start = time.perf_counter()
        network.append(mtre(model.predict(case.xray), case.truth, case.points))
        result = register(case.ct, [case.xray], start=model, registrar=own)
        seconds.append(time.perf_counter() - start)
        errors.append(mtre(result.pose, case.truth, case.points))
        trusted.append(result.trust.trusted)
    good = np.array(errors) < 1
    row = {
        "set": kind,
        "cases": len(errors),
        "successes": int(good.sum()),
        "wilson": list(wilson_interval(int(good.sum()), len(errors))),
        "network": {str(p): float(np.percentile(network, p)) for p in (50, 90, 95, 100)},
        "mtre": {str(p): float(np.percentile(errors, p)) for p in (50, 75, 95)},
        "trusted": [int((good & trusted).sum()), int((~good & trusted).sum())],
        "seconds": float(np.median(seconds)),
        "errors": np.round(errors, 3).tolist(),
        "networkErrors": np.round(network, 1).tolist(),
    }
    piece.write_text(json.dumps(row))
    print(trial_line(folder.name, row), flush=True)


def images(ct: CTVolume, kind: str, rotation: float, count: int) -> Iterator[Case]:
    """The images of a set: the same for all models of a CT and range."""
    rng = np.random.default_rng([41, SETS.index("plain" if kind == "alike" else kind)])
    short = shortened(ct)
    truths = random_poses(short, count, rng, rotation, TRANSLATION)
    cache = cache_folder() / "line-integrals"
    if kind == "alike":
        for number, (truth, paths) in enumerate(
            zip(truths, line_integrals(ct, truths, BENCH_CARM, cache), strict=True)
        ):
            xray = fluoroscopy(paths, BENCH_CARM, np.random.default_rng([43, number]))
            uncovered = np.zeros(xray.pixels.shape, bool)
            yield Case(number, xray, short, truth, BENCH_CARM, default_points(short.center), uncovered)
        return
    if kind == "polyenergetic":
        from _polyenergetic import polyenergetic

        yield from cases(ct, truths, [CLEAN] * count, images=polyenergetic(ct, truths, BENCH_CARM))
        return
    exposures = [cluttered(rng) if kind == "cluttered" else CLEAN for _ in truths]
    yield from cases(ct, truths, exposures, cache=cache)


def cluttered(rng: np.random.Generator) -> Exposure:
    """Instruments, a collimator and a truncated CT."""
    return Exposure(
        instruments=int(rng.integers(1, 5)),
        collimator=str(rng.choice(["circle", "rectangle"])),
        ct_truncation=rng.uniform(0, 0.25),
    )


# What is printed -----------------------------------------------------------------------------------------------------


def report(out: Path) -> None:
    """Print every piece, and what they say together."""
    trainings = [json.loads(file.read_text()) for file in sorted(out.glob("*.train.json"))]
    trials: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = {}
    print("\nTrainings")
    for row in trainings:
        print(training_line(row))
        for kind in SETS:
            piece = out / f"{row['ct']}-{row['preset']}-{row['seed']}.{kind}.json"
            if piece.exists():
                trials.setdefault((row["preset"], row["seed"], kind), {})[row["ct"]] = json.loads(piece.read_text())
    print("\nTrials")
    totals: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for (preset, seed, kind), by_ct in sorted(trials.items()):
        for name, row in by_ct.items():
            print(trial_line(f"{name}-{preset}-{seed}", row))
        good, count = (sum(row[key] for row in by_ct.values()) for key in ("successes", "cases"))
        totals.setdefault((preset, kind), []).append((good, count))
    print("\nAll CTs together, one figure a seed")
    for (preset, kind), figures in totals.items():
        texts = ", ".join(f"{good} of {count} ({good / count:.1%})" for good, count in figures)
        middle = sorted(figures, key=lambda f: f[0] / f[1])[len(figures) // 2]
        print(f"{preset:9} {kind:13} {texts}; median {middle[0]} of {middle[1]}")
    for kind in ("alike", "plain"):
        print(f"\nCertificate minus plastimatch ({kind}), points, 95 % interval")
        pairs: dict[str, list[tuple[int, int, int, int]]] = {}
        for row in trainings:
            sure, tried = row["certificate"], trials.get((row["preset"], row["seed"], kind), {}).get(row["ct"])
            if sure["cases"] and tried:
                pair = sure["successes"], sure["cases"], tried["successes"], tried["cases"]
                pairs.setdefault(row["preset"], []).append(pair)
                print(difference_line(f"{row['ct']}-{row['preset']}-{row['seed']}", pair))
        for preset, found in pairs.items():
            good, count, other, of = (sum(column) for column in zip(*found, strict=True))
            print(difference_line(f"{preset}, all together", (good, count, other, of)))


def difference_line(name: str, pair: tuple[int, int, int, int]) -> str:
    """One rate (successes, cases) minus another in a line."""
    low, high = difference_interval(*pair)
    between = 100 * (pair[0] / pair[1] - pair[2] / pair[3])
    return f"{name}: {between:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) of {pair[1]} and {pair[3]} cases"


def training_line(row: dict[str, Any]) -> str:
    """One training in a line."""
    reached = " ".join(f"{mm} mm: {'-' if s is None else f'{s:.0f} s'}" for mm, s in row["reached"].items())
    sure = row["certificate"]
    certificate = "none"
    if sure["cases"]:
        low, high = (100 * end for end in sure["interval"])
        certificate = (
            f"{sure['successes']} of {sure['cases']} ({low:.1f} to {high:.1f} %), "
            f"{'certified' if sure['certified'] else 'not certified'}, "
            f"trusted {sure['trusted']['ofSuccesses']} of {sure['successes']} successes and "
            f"{sure['trusted']['ofFailures']} of {sure['cases'] - sure['successes']} failures"
        )
    passed = f"good enough at {row['passed']:.0f} s, " if row["passed"] else ""
    return (
        f"{row['ct']:11} {row['preset']:8} seed {row['seed']}: {row['wall']:.0f} s in all ({row['cpu']:.0f} s CPU), "
        f"{passed}learning ended at {row['learning']:.0f} s, {row['steps']} steps, "
        f"{row['imagesPerSecond']:.0f} images/s; {reached}; at the end {row['validationMtreMm']:.1f} mm; "
        f"certificate {certificate}"
    )


def trial_line(name: str, row: dict[str, Any]) -> str:
    """One trial in a line."""
    low, high = (100 * end for end in row["wilson"])
    network, failures = row["network"], row["cases"] - row["successes"]
    return (
        f"{name:22} {row['set']:13} network {network['50']:.1f} / {network['95']:.1f} mm (median / 95 %); "
        f"{row['successes']} of {row['cases']} within 1 mm ({low:.1f} to {high:.1f} %), "
        f"median {row['mtre']['50']:.2f} mm in {row['seconds']:.2f} s; "
        f"trusted {row['trusted'][0]} of {row['successes']} successes and {row['trusted'][1]} of {failures} failures"
    )


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
