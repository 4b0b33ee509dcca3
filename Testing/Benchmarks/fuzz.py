"""Damaged files against the readers: bytes flipped, cut, swapped and overwritten in valid files.

    python Testing/Benchmarks/fuzz.py --count 10000

The files are read by the engine, which is started again when a native decoder takes it down, and must then say by which
file. What may come out of a file is an image, or one clear line; anything else is counted, and named by its number: the
same seed makes the same file again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LIBRARY = Path(__file__).resolve().parents[2] / "DiffPoseSlicer"
TESTS = Path(__file__).resolve().parents[1] / "Python"  # with what writes DICOM for the tests
# Of the engine's worker.
MEMORY_LIMIT = 2 << 30
TIME_LIMIT = 20.0


# ---- Valid files ------------------------------------------------------------------------------------------------


def write_corpus(folder: Path) -> list[Path]:
    """Small valid files of every kind that is read."""
    import SimpleITK as sitk

    sys.path[:0] = [str(LIBRARY), str(TESTS)]
    from DiffPoseSlicerLib.geometry.carm import CArm
    from DiffPoseSlicerLib.geometry.pose import Pose
    from DiffPoseSlicerLib.imaging.ct import CTVolume
    from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray

    v, u = np.mgrid[0:1:40j, 0:1:48j]
    image = 3 * np.exp(-8 * ((u - 0.4) ** 2 + (v - 0.6) ** 2))
    counts = np.rint(60000 * np.exp(-image)).astype(np.uint16)
    carm = CArm(1000, image.shape, (0.5, 0.6), intensity="transmission")
    pose = Pose.from_view("AP", [0, 0, 0], carm)
    files: list[Path] = []

    def add(name: str) -> Path:
        files.append(folder / name)
        return files[-1]

    carm.write(add("carm.json"))
    pose.write(add("pose.json"))
    np.savetxt(add("calibration.txt"), carm.intrinsics @ pose.ras_to_camera[:3])
    write_dicom_xray(add("log.dcm"), image, carm, pose)
    write_dicom_xray(add("lin.dcm"), image, carm, pose, relationship="LIN")
    for name in ("x.png", "x.tif", "x.nrrd", "x.nii", "x.nii.gz", "x.mha", "x.jpg"):
        pixels = (counts >> 8).astype(np.uint8) if name.endswith("jpg") else counts
        sitk.WriteImage(sitk.GetImageFromArray(pixels), str(add(name)), useCompression=name in ("x.nrrd", "x.tif"))
    np.save(add("x.npy"), counts)
    hu = np.full((12, 16, 20), -1000, np.int16)
    hu[2:-2, 3:-3, 4:-4] = np.random.default_rng(0).integers(-100, 900, (8, 10, 12))
    ct = CTVolume.from_array(hu, np.diag([4.0, 4, 4, 1]))
    for name in ("ct.nii.gz", "ct.nii", "ct.nrrd", "ct.mha"):
        ct.write(add(name))
    files += _compressed(folder, counts)
    return files


def _compressed(folder: Path, counts: np.ndarray) -> list[Path]:
    """The X-ray in compressed transfer syntaxes, one and several frames, and an enhanced CT."""
    import pydicom
    import SimpleITK as sitk
    from pydicom.uid import EnhancedCTImageStorage

    from dicom_writing import item, save, set_rle

    plain = pydicom.dcmread(folder / "lin.dcm")
    made = []
    for compressor in ("JPEG", "JPEG2000"):
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(folder / "compressor.dcm"))
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(counts[None]))
        one = pydicom.dcmread(folder / "compressor.dcm")
        plain.PixelData, plain.file_meta.TransferSyntaxUID = one.PixelData, one.file_meta.TransferSyntaxUID
        plain["PixelData"].VR, plain["PixelData"].is_undefined_length = "OB", True
        made.append(folder / f"{compressor.lower()}.dcm")
        save(plain, made[-1])
    rle = pydicom.dcmread(folder / "lin.dcm")
    rle.NumberOfFrames = 3
    set_rle(rle, np.stack([counts] * 3))
    made.append(folder / "rle_run.dcm")
    save(rle, made[-1])
    ct = pydicom.dcmread(folder / "lin.dcm")
    ct.file_meta.MediaStorageSOPClassUID = ct.SOPClassUID = EnhancedCTImageStorage
    ct.Modality, ct.ImageType, ct.NumberOfFrames = "CT", ["ORIGINAL", "PRIMARY"], 4
    ct.PixelData = (np.stack([counts // 40] * 4)).astype("<u2").tobytes()

    ct.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=["1", "1"])],
            PlaneOrientationSequence=[item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])],
            PixelValueTransformationSequence=[item(RescaleSlope="1", RescaleIntercept="-1024")],
        )
    ]
    ct.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=["0", "0", str(2 * n)])]) for n in range(4)
    ]
    made.append(folder / "enhanced_ct.dcm")
    save(ct, made[-1])
    return made


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A file's bytes with one to four kinds of damage, more often near its start, where headers are."""
    bad = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if len(bad) < 8:
            break
        reach = len(bad) if rng.random() < 0.4 else min(len(bad), 2048)
        at = int(rng.integers(0, reach))
        size = int(rng.integers(1, max(2, min(64, len(bad) - at))))
        match int(rng.integers(0, 7)):
            case 0:  # single bits
                for place in rng.integers(0, reach, int(rng.integers(1, 9))):
                    bad[place] ^= 1 << int(rng.integers(0, 8))
            case 1:
                del bad[int(rng.integers(0, len(bad))) :]
            case 2:
                other = int(rng.integers(0, len(bad) - size))
                bad[at : at + size], bad[other : other + size] = bad[other : other + size], bad[at : at + size]
            case 3:
                bad[at : at + size] = bytes([int(rng.choice([0, 255, 128, 32, 65]))]) * size
            case 4:
                bad[at:at] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
            case 5:
                del bad[at : at + size]
            case _:  # numbers that matter: large, negative, zero
                number = int(rng.choice([0, 1, -1, 2**15, 2**31 - 1, -(2**31), 65535, 10**9]))
                bad[at : at + 4] = (number & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(bad)


# ---- The engine that reads --------------------------------------------------------------------------------------

# The engine's worker under a limit of memory.
LIMITED = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({limit}, resource.RLIM_INFINITY))
except ImportError:
    pass  # Windows: no limit, the time limit remains
from DiffPoseSlicerLib.engine import worker
sys.exit(worker.main())
"""


class Reader:
    """The engine as the panel has it: a worker process that is started again when a file has taken it down."""

    def __init__(self) -> None:
        from DiffPoseSlicerLib.engine.client import EngineClient
        from DiffPoseSlicerLib.engine.transport import SubprocessTransport

        # numpy, SimpleITK and pydicom are some hundred MB of address space themselves.
        code = LIMITED.format(limit=MEMORY_LIMIT + (1 << 30))
        self.transport = SubprocessTransport(command=[sys.executable, "-c", code])
        self.engine = EngineClient(self.transport)

    def read(self, path: Path) -> dict[str, Any]:
        """What came of a file: {"read": ...}, {"refused": words}, {"died": words}, {"hung": s} or {"defect": ...}.

        X-rays that lack a number of their geometry count as read; the lines say what is missing.
        """
        from DiffPoseSlicerLib.errors import InputError

        try:
            return {"read": self._ask(path), "peak": self._peak()}
        except InputError as error:
            return {"refused": str(error), "peak": self._peak()}
        except TimeoutError:
            self.engine.close(0)
            return {"hung": TIME_LIMIT}
        except Exception as error:  # everything else is a defect, to be reported and not to end the run
            if type(error).__name__ != "EngineStopped":
                return {"defect": f"{type(error).__name__}: {error}"[:300], "peak": self._peak()}
            back = self.engine.call("cancel") == {}
            return {"died": str(error)} if back and path.name in str(error) else {"defect": str(error)}

    def close(self) -> None:
        """End the worker."""
        self.engine.close(0)

    def _ask(self, path: Path) -> Any:
        """Read a file as what its name says, where the product does: small text here, images in the engine."""
        from DiffPoseSlicerLib.geometry.carm import CArm
        from DiffPoseSlicerLib.geometry.pose import read_poses
        from DiffPoseSlicerLib.imaging.calibration_files import read_calibration

        if path.name.endswith("carm.json"):
            return repr(CArm.read(path))
        if path.name.endswith("pose.json"):
            return repr(read_poses(path))
        if path.name.endswith(".txt"):
            return repr(read_calibration(path, (40, 48)))
        if "ct" in path.name:
            return self._call("load_ct", {"path": path})["name"]
        if path.suffix == ".dcm":
            self._call("read_geometry", {"path": path})
            return self._call("doctor", {"path": path})["lines"]
        return self._call("doctor", {"path": path, "carm": CArm(1000, (40, 48), (0.5, 0.6)).to_json()})["lines"]

    def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The engine's answer. Raises what it raises, or TimeoutError."""
        outcome: list[Any] = []
        self.engine.submit(method, params, on_result=outcome.append, on_error=outcome.append)
        until = time.monotonic() + TIME_LIMIT
        while not outcome:
            self.engine.poll()
            if outcome:
                break
            if time.monotonic() >= until:
                raise TimeoutError
            self.transport.wait(0.05)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _peak(self) -> int:
        """The most memory the worker has held, kB; 0 where the system does not tell."""
        try:
            status = Path(f"/proc/{self.transport.pid}/status").read_text()
        except OSError:
            return 0
        return int(status.partition("VmHWM:")[2].split()[0]) if "VmHWM:" in status else 0


@dataclass
class Report:
    """What came of it all.

    Attributes:
        outcomes: How many files were read, refused, and so on.
        problems: Hangs, defects, deaths and unclear refusals, each with the number of its file.
        peak_kb: The most memory the engine's worker held.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    peak_kb: int = 0
    seconds: float = 0.0

    @property
    def bad(self) -> int:
        """Files with an outcome that must not be: all but those read, refused, or fatal to a native decoder."""
        return sum(count for name, count in self.outcomes.items() if name not in ("read", "refused", "died"))


def unclear(message: str, folder: Path) -> str:
    """What is wrong with a refusal; "" if it is one clear line."""
    if "\n" in message or not message.strip().endswith((".", "?", ")")):
        return "not one sentence"
    if str(folder) in message or "0x" in message or "Traceback" in message:
        return "shows internals"
    return "too long" if len(message) > 500 else ""


def fuzz(count: int, seed: int, only: int | None = None, keep: Path | None = None, progress: bool = False) -> Report:
    """Read `count` damaged files. `only`: just the file of that number, kept in `keep`."""
    report = Report()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        corpus = write_corpus(folder)
        originals = [path.read_bytes() for path in corpus]
        reader = Reader()
        try:
            for path in corpus:  # undamaged they must all be read
                answer = reader.read(path)
                if "read" not in answer:
                    report.outcomes["valid file not read"] += 1
                    report.problems.append(f"{path.name}: {answer}")
            for number in range(count) if only is None else [only]:
                rng = np.random.default_rng([seed, number])
                which = int(rng.integers(0, len(corpus)))
                bad = folder / f"bad_{corpus[which].name}"
                bad.write_bytes(damaged(originals[which], rng))
                answer = reader.read(bad)
                report.peak_kb = max(report.peak_kb, answer.get("peak", 0))
                outcome = next(key for key in ("read", "refused", "defect", "died", "hung") if key in answer)
                if outcome == "refused" and (why := unclear(answer["refused"], folder)):
                    outcome = "unclear"
                    answer["why"] = why
                report.outcomes[outcome] += 1
                if outcome not in ("read", "refused"):
                    report.problems.append(f"file {number} ({bad.name}): {answer}")
                if keep is not None and (only is not None or outcome not in ("read", "refused")):
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}_{bad.name}").write_bytes(bad.read_bytes())
                bad.unlink()
                if progress and number % 500 == 499:
                    print(f"{number + 1} files: {dict(report.outcomes)}", flush=True)
        finally:
            reader.close()
    report.seconds = time.perf_counter() - start
    return report


def main(argv: list[str] | None = None) -> int:
    """Run and print; 0 if every file ended in an image or one clear line, or at worst in an engine that came back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10000, help="files (default 10000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="N", help="just file number N")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the files that made trouble there")
    args = parser.parse_args(argv)
    report = fuzz(args.count, args.seed, args.only, args.keep, progress=True)
    for problem in report.problems:
        print(problem)
    outcomes = ", ".join(f"{count} {name}" for name, count in report.outcomes.most_common())
    print(
        f"{sum(report.outcomes.values())} files in {report.seconds:.0f} s: {outcomes}; peak memory "
        f"{report.peak_kb / 1024:.0f} MB"
    )
    return 1 if report.bad or report.peak_kb > MEMORY_LIMIT // 1024 else 0


if __name__ == "__main__":
    sys.exit(main())
