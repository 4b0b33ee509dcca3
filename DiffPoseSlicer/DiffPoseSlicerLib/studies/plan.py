"""What a study is: read from a TOML file, checked, and taken apart into cases.

CTs (or a dataset's subjects) x views x starts x stress factors x X-rays are cases; each is registered by every method.
Everything random in a case follows from the study's seed and the case's own name, so cases can run in any order.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..evaluation.public_ct import PUBLIC_CTS
from ..evaluation.stress import FACTORS
from ..geometry.pose import VIEWS
from .methods import METHODS

FACTOR_NAMES = ("clean", *FACTORS, "several")
SIMULATORS = ("plastimatch", "own")
DATASETS = ("deepfluoro", "ljubljana")


@dataclass(frozen=True)
class Case:
    """One X-ray with one start. `ct` names a CT or a dataset's subject, `number` counts its X-rays."""

    ct: str
    view: str
    start: str
    factor: str
    number: int

    @property
    def subject(self) -> str:
        """The CT's name, wherever its file lies: what is random must not depend on that."""
        return Path(self.ct).name.split(".")[0]

    @property
    def name(self) -> str:
        """Unique in its study, and good for a file."""
        words = (self.subject, self.view, self.start, self.factor, f"{self.number:04d}")
        return "-".join(word.replace(" ", "_") for word in words)

    def rng(self, seed: int, *use: str) -> np.random.Generator:
        """Random numbers for one use, the same whenever and wherever the case runs."""
        return np.random.default_rng([seed, self.number, *(zlib.crc32(word.encode()) for word in use)])


@dataclass(frozen=True)
class Study:
    """A study; every field but `methods` has a default that a study file may leave out.

    Attributes:
        methods: name -> settings; "use" names one of METHODS where the name itself does not.
        name: its title.
        cts: public CTs by name, or files.
        dataset: {"kind": "deepfluoro" or "ljubljana", "file": ..., "subjects": [...]}: real X-rays instead of `cts`.
        views: nominal views.
        starts: name -> (degrees, mm): half-ranges about the true pose.
        factors: stress factors, of FACTOR_NAMES.
        cases: X-rays per CT, view, start and factor.
        rotation, translation: half-ranges of the true poses about the view, degrees and mm.
        pixels: of the X-ray's sides.
        simulator: "plastimatch", or "own" (our renderer: quick, but not independent).
        seed: of everything random.
        limits: CT -> mTRE in mm that counts as success; 1 mm where nothing is said.
    """

    methods: dict[str, dict[str, Any]]
    name: str = "Study"
    cts: tuple[str, ...] = ("chest",)
    dataset: dict[str, Any] = field(default_factory=dict)
    views: tuple[str, ...] = ("AP",)
    starts: dict[str, tuple[float, float]] = field(default_factory=lambda: {"near": (20.0, 40.0)})
    factors: tuple[str, ...] = ("clean",)
    cases: int = 10
    rotation: tuple[float, float, float] = (30.0, 30.0, 30.0)
    translation: tuple[float, float, float] = (50.0, 50.0, 100.0)
    pixels: int = 256
    simulator: str = "plastimatch"
    seed: int = 1
    limits: dict[str, float] = field(default_factory=lambda: {"pelvis": 2.0})

    def __post_init__(self) -> None:
        if not self.methods:
            raise InputError("The study has no methods: name at least one under [methods].")
        for name, settings in self.methods.items():
            METHODS[self.use(name)].check(name, {k: v for k, v in settings.items() if k != "use"})
        _known("views", self.views, tuple(VIEWS))
        _known("factors", self.factors, FACTOR_NAMES)
        _known("simulator", (self.simulator,), SIMULATORS)
        if self.dataset:
            _known("kind of dataset", (self.dataset.get("kind"),), DATASETS)
            if not self.dataset.get("file") or not self.dataset.get("subjects"):
                raise InputError("The study's dataset needs a file and subjects.")
            if self.factors != ("clean",):
                raise InputError("A dataset's X-rays are what they are: leave out the study's factors.")
        for name in self.cts:
            if name not in PUBLIC_CTS and not Path(name).exists():
                raise InputError(f"The study's CT {name!r} is no file and none of {', '.join(PUBLIC_CTS)}.")
        names = [case.name for case in self.all_cases()]
        if len(set(names)) != len(names):
            raise InputError("Two of the study's CTs have the same name: rename a file.")
        if not self.starts or self.cases < 1 or self.pixels < 16:
            raise InputError("The study needs a start, one case or more, and 16 pixels or more.")

    def use(self, method: str) -> str:
        """The entry of METHODS that a method of the study uses."""
        kind = str(self.methods[method].get("use", method))
        _known(f"method {method}", (kind,), tuple(METHODS))
        return kind

    def settings(self, method: str) -> dict[str, Any]:
        """A method's own settings."""
        return {key: value for key, value in self.methods[method].items() if key != "use"}

    def all_cases(self) -> Iterator[Case]:
        """Every case, one CT after the other."""
        if self.dataset:
            for subject in self.dataset["subjects"]:
                for start in self.starts:
                    for number in range(self.cases):
                        yield Case(subject, "file", start, "clean", number)
            return
        for ct in self.cts:
            for view in self.views:
                for factor in self.factors:
                    for start in self.starts:
                        for number in range(self.cases):
                            yield Case(ct, view, start, factor, number)

    def methods_of(self, case: Case) -> list[str]:
        """The methods a case is registered by: those that need no start see each X-ray once, with the first start."""
        first = case.start == next(iter(self.starts))
        return [name for name in self.methods if first or METHODS[self.use(name)].needs_start]

    def limit(self, ct: str) -> float:
        """The mTRE that counts as success."""
        return self.limits.get(ct, 1.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def study_from_toml(text: str, folder: Path | None = None) -> Study:
    """A study from the text of its file; relative paths in it are meant from `folder`.

    Raises:
        InputError: not TOML, or an entry that is unknown or not possible.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise InputError("Python 3.10 reads study files with tomli: run `pip install tomli`.") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"The study file is not TOML: {error}.") from None
    known = {f.name for f in fields(Study)}
    unknown = set(data) - known
    if unknown:
        raise InputError(f"The study file has an unknown entry {min(unknown)!r}: use {', '.join(sorted(known))}.")
    if "methods" not in data or not isinstance(data["methods"], dict):
        raise InputError("The study file has no [methods].")
    if folder is not None:
        data["cts"] = [_beside(folder, ct) for ct in data.get("cts", Study.cts)]
        if "file" in data.get("dataset", {}):
            data["dataset"]["file"] = str(folder / data["dataset"]["file"])
        for settings in data["methods"].values():
            if "models" in settings:
                settings["models"] = {ct: str(folder / path) for ct, path in settings["models"].items()}
    try:
        data["starts"] = {
            name: tuple(map(float, pair)) for name, pair in data.get("starts", {"near": (20, 40)}).items()
        }
        lists: dict[str, Any] = {
            key: tuple(data[key]) for key in ("cts", "views", "factors", "rotation", "translation") if key in data
        }
        entries: dict[str, Any] = {**data, **lists}
        return Study(**entries)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"The study file holds a value of the wrong kind ({error}).") from None


def read_study(path: str | Path) -> Study:
    """A study from its file. Raises InputError as :func:`study_from_toml`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"The study file {Path(path).name} cannot be read.") from None
    return study_from_toml(text, Path(path).resolve().parent)


def _beside(folder: Path, ct: str) -> str:
    return ct if ct in PUBLIC_CTS else str(folder / ct)


def _known(what: str, given: tuple[Any, ...], known: tuple[str, ...]) -> None:
    for value in given:
        if value not in known:
            raise InputError(f"The study's {what} is {value!r}: use {', '.join(known)}.")
