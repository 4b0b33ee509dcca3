"""The documentation's pictures: `python3 Testing/run.py pictures`, after `run.py screenshots` and `run.py bench study`.

The page of a registration of the public chest CT (its X-ray by plastimatch, read from DICOM) and the page of a study
(the one in out/bench/study, else a small one of the same kind), drawn by Chromium; and the panel as `screenshots` drew
it in out/screenshots, where that is there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "Testing" / "Python"), str(ROOT / "Testing" / "Benchmarks")]

import study  # noqa: E402

import browser  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
# Which of the panel's pictures goes where.
PANEL = {
    "??_images_ready.png": PICTURES / "panel-images.png",
    "??_preparing_later.png": PICTURES / "panel-prepare.png",
    "??_registered.png": ROOT / "Resources" / "Screenshots" / "panel.png",
    "??_edges.png": PICTURES / "panel-review.png",
    "registration.gif": PICTURES / "registration.gif",
}
# Width of a page; rows of pixels that are drawn, and of these kept at most.
WIDE, DRAWN, KEPT = 940, 6000, 3000


def save(image: Image.Image, file: Path) -> None:
    """In 256 colours, plenty for text, lines and grey images, at a third of the size."""
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {image.width} x {image.height}, {file.stat().st_size / 1000:.0f} kB")


def draw(page: Path, file: Path) -> None:
    """Draw a page; what is blank below its end is left out."""
    with tempfile.TemporaryDirectory() as name:
        drawn = Path(name, "page.png")
        browser.screenshot(page, drawn, Path(name), (WIDE, DRAWN))
        image = Image.open(drawn).convert("RGB")
    used = np.flatnonzero((np.asarray(image) != 255).any((1, 2)))[-1] + 40
    save(image.crop((0, 0, image.width, min(used, KEPT))), file)


def registration_page(folder: Path) -> Path:
    """The page of one registration with geometry from a DICOM file."""
    from DiffPoseSlicerLib import CTVolume, XrayImage, register
    from DiffPoseSlicerLib.evaluation.cases import BENCH_CARM, cases, offset_start, random_poses
    from DiffPoseSlicerLib.evaluation.public_ct import cache_folder, public_ct
    from DiffPoseSlicerLib.evaluation.report import write_report
    from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray

    ct, rng = CTVolume.read(public_ct("chest", say=print)), np.random.default_rng(5)
    poses = random_poses(ct, 1, rng, (10, 10, 10), (20, 20, 40))
    (case,) = cases(ct, poses, cache=cache_folder() / "line-integrals")
    file = folder / "fluoroscopy.dcm"
    write_dicom_xray(file, case.xray.pixels, BENCH_CARM, case.truth, relationship="LIN", derived=False)
    xray = XrayImage.read(file)
    result = register(case.ct, xray, offset_start(case.truth, case.ct.center, rng, 10, 20))
    write_report(folder / "page.html", case.ct, xray, result)
    return folder / "page.html"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="pictures", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--study", type=Path, default=ROOT / "out" / "bench" / "study", help="folder of a study")
    parser.add_argument(
        "--panel", type=Path, default=ROOT / "out" / "screenshots", help="folder of the panel's pictures"
    )
    options = parser.parse_args(argv)
    if browser.find() is None:
        print("Chromium draws the pages and is not installed: install it and run this again.", file=sys.stderr)
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        draw(registration_page(Path(name)), PICTURES / "registration-page.png")
        if not (options.study / "index.html").is_file():
            options.study = Path(name) / "study"
            study.main(["--cases", "20", "--out", str(options.study)])
        draw(options.study / "index.html", PICTURES / "study-page.png")
    for name, file in PANEL.items():
        found = sorted(options.panel.glob(name))
        if not found:
            print(f"{file.relative_to(ROOT)}: left as it is, {options.panel} has no {name} (run.py screenshots)")
        elif file.suffix == ".gif":
            shutil.copyfile(found[0], file)
        else:
            save(Image.open(found[0]), file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
