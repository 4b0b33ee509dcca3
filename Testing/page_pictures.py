"""Pictures of the pages that the product writes, for docs/pictures: `python3 Testing/run.py page-pictures`.

A registration of the public chest CT, its X-ray by plastimatch and read from DICOM, and a study: the one that `bench
study` left in out/bench/study, else a small one of the same kind. Drawn by Chromium.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "Testing" / "Python"), str(ROOT / "Testing" / "Benchmarks")]

import study  # noqa: E402

import browser  # noqa: E402

WIDE, HIGH = 940, 6000


def picture(page: Path, file: Path, most: int) -> None:
    """Draw a page's first `most` rows of pixels; what is blank below its end is left out."""
    with tempfile.TemporaryDirectory() as folder:
        browser.screenshot(page, file, Path(folder), (WIDE, HIGH))
    image = np.asarray(Image.open(file).convert("RGB"))
    used = np.flatnonzero((image != 255).any((1, 2)))[-1] + 40
    # 256 colours are plenty for text, lines and grey images, and a third of the size.
    Image.fromarray(image[: min(used, most)]).quantize(256).save(file, optimize=True)
    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


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
    parser = argparse.ArgumentParser(prog="page-pictures")
    parser.add_argument("--study", type=Path, default=ROOT / "out" / "bench" / "study", help="folder of a study")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    options = parser.parse_args(argv)
    if browser.find() is None:
        print("Chromium draws the pages and is not installed: install it and run this again.", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        picture(registration_page(Path(name)), options.out / "registration-page.png", 3000)
        if not (options.study / "index.html").is_file():
            options.study = Path(name) / "study"
            study.main(["--cases", "20", "--out", str(options.study)])
        picture(options.study / "index.html", options.out / "study-page.png", 3000)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
