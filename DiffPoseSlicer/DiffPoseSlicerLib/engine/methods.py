"""What the worker can do, and what it keeps warm between requests. Knows nothing of processes and streams."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from .. import __version__
from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.files import number, numbers, rigid_matrix
from ..geometry.pose import poses_from_json
from .arrays import ArrayFolder, is_reference
from .protocol import VERSION

if TYPE_CHECKING:
    from ..imaging.ct import CTVolume
    from ..imaging.xray import XrayImage
    from ..pretraining.model import PoseModel
    from ..registration.register import Progress, Registrar

Params = dict[str, Any]
T = TypeVar("T")


class Recent(Generic[T]):
    """The last few things used, by key."""

    def __init__(self, capacity: int) -> None:
        self._items: OrderedDict[str, T] = OrderedDict()
        self._capacity = capacity

    def get(self, key: str) -> T | None:
        """The thing of a key, or None; it becomes the latest used."""
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def put(self, key: str, item: T) -> T:
        """Keep a thing, let go of the one unused longest."""
        self._items[key] = item
        self._items.move_to_end(key)
        while len(self._items) > self._capacity:
            self._items.popitem(last=False)
        return item

    def keys(self) -> list[str]:
        """What is held."""
        return list(self._items)


class WarmCT:
    """A CT with its renderers, one set per device."""

    def __init__(self, ct: CTVolume) -> None:
        self.ct = ct
        self._registrars: dict[str, Registrar] = {}
        self.structures: Recent[Registrar] = Recent(8)

    def registrar(self, device: str, center: list[float] | None) -> Registrar:
        """The warm registrar of a device, turning about `center` (default the CT's)."""
        from ..registration.register import Registrar

        if device not in self._registrars:
            self._registrars[device] = Registrar(self.ct, device)
        registrar = self._registrars[device]
        registrar.center = np.asarray(self.ct.center if center is None else center, float)
        return registrar


class Engine:
    """The worker's state and one method per request."""

    def __init__(self) -> None:
        self._arrays: ArrayFolder | None = None
        self._cts: Recent[WarmCT] = Recent(2)
        self._models: Recent[PoseModel] = Recent(3)
        # what a load request asked for -> the key of what it gave, so that asking again reads nothing
        self._keys: dict[str, str] = {}

    def handle(
        self, method: str, params: Params, on_progress: Callable[[Params], None], cancel: Callable[[], bool]
    ) -> Params:
        """Answer one request. Raises InputError, Cancelled, or anything else for a defect."""
        if method in ("register", "track"):
            work = self._register if method == "register" else self._track
            return work(params, on_progress, cancel)
        handler: Callable[[Params], Params] = {
            "hello": self._hello,
            "doctor": self._doctor,
            "read_geometry": self._read_geometry,
            "load_ct": self._load_ct,
            "load_model": self._load_model,
            "render": self._render,
            "report": self._report,
            "cancel": lambda params: {},
            "shutdown": lambda params: {},
        }[method]
        return handler(params)

    def close(self) -> None:
        """Delete the arrays left in the folder: they hold a patient's voxels."""
        if self._arrays:
            self._arrays.clear()

    @property
    def arrays(self) -> ArrayFolder:
        """The folder arrays travel in."""
        if self._arrays is None:
            raise InputError("The first request must be hello, naming the folder that arrays travel in.")
        return self._arrays

    def _hello(self, params: Params) -> Params:
        if params.get("version") != VERSION:
            raise InputError(
                f"The engine (DiffPoseSlicer {__version__}) speaks version {VERSION} of its protocol and was asked for "
                f"{params.get('version')!r}; install the same version on both sides."
            )
        folder = Path(text(params, "folder"))
        if not folder.is_dir():
            raise InputError(f"The folder {folder.name} for arrays does not exist.")
        self._arrays = ArrayFolder(folder, "w")
        return {"version": VERSION, "product": __version__, "pid": os.getpid(), "python": sys.version.split()[0]}

    def _doctor(self, params: Params) -> Params:
        """What the machine has and lacks, or what is understood of a CT or X-ray file."""
        if "path" in params:
            from ..imaging.understanding import describe_file

            carm = _carm(params) if params.get("carm") is not None else None
            return {"lines": describe_file(text(params, "path"), carm)}
        from .doctor import machine

        return {"lines": machine()}

    def _read_geometry(self, params: Params) -> Params:
        """What a DICOM X-ray says of the C-arm, without its pixels' meaning: see scene/dicom.py, which reads this."""
        from ..geometry.pose import view_rotation
        from ..imaging.dicom_xray import read_dicom_xray

        image = read_dicom_xray(Path(text(params, "path")))
        found = image.geometry
        carm, positioner, view = found.carm, found.positioner, None
        if positioner is not None:
            angles = positioner.lao_rao, positioner.cran_caud
            if np.allclose(view_rotation("PA", *angles), positioner.rotation, atol=1e-3):
                view = {"view": "PA", "laoRao": angles[0], "cranCaud": angles[1]}
        return {
            "carm": None if carm is None else carm.to_json(),
            "view": view,
            "facts": [[fact.name, fact.value, fact.source] for fact in image.facts],
            "missing": list(found.missing),
            "notes": list(image.notes),
        }

    def _load_ct(self, params: Params) -> Params:
        from ..imaging.ct import CTVolume

        asked = _ct_request(params)
        warm = self._cts.get(self._keys.get(asked, ""))
        if warm is None:
            if "path" in params:
                ct = CTVolume.read(text(params, "path"))
            else:
                slabs = [self.arrays.load(slab) for slab in _slabs(params)]
                if any(slab.ndim != 3 or slab.shape[1:] != slabs[0].shape[1:] for slab in slabs):
                    raise InputError(
                        "The slabs of the CT do not fit together: each must be [k, j, i] of the same j, i."
                    )
                ct = CTVolume.from_array(np.concatenate(slabs), params.get("affine", ()), str(params.get("name", "")))
            warm = self._cts.get(ct.fingerprint) or self._cts.put(ct.fingerprint, WarmCT(ct))
            self._keys[asked] = ct.fingerprint
        ct = warm.ct
        return {
            "ct": ct.fingerprint,
            "held": self._held(),
            "name": ct.name,
            "shape": list(ct.hu.shape),
            "spacing": ct.spacing.tolist(),
            "center": ct.center.tolist(),
            "notes": list(ct.notes),
        }

    def _load_model(self, params: Params) -> Params:
        from ..pretraining.model import PoseModel

        folder = Path(text(params, "folder"))
        key = f"{folder.absolute()}|{_stamps(sorted(folder.glob('*.safetensors')))}"
        model = self._models.get(key) or self._models.put(key, PoseModel.load(folder))
        return {
            "model": key,
            "held": self._held(),
            "notes": list(model.notes),
            "fingerprint": model.fingerprint,
            "view": model.view,
            "carm": model.carm.to_json(),
            "center": np.asarray(model.center, float).tolist(),
            "rotation": np.asarray(model.rotation, float).tolist(),
            "translation": np.asarray(model.translation, float).tolist(),
        }

    def _render(self, params: Params) -> Params:
        from ..rendering.renderer import render

        ct, carm = self._ct(params).ct, _carm(params)
        pose = poses_from_json(_object(params, "pose"), "pose")[0]
        wanted = bool(params.get("jacobian", False))
        rendered = render(ct, carm, pose, jacobian=wanted, device=_device(params))
        image, jacobian = rendered if isinstance(rendered, tuple) else (rendered, None)
        return {
            "image": self.arrays.save(image),
            **({} if jacobian is None else {"jacobian": self.arrays.save(jacobian)}),
        }

    def _register(self, params: Params, on_progress: Callable[[Params], None], cancel: Callable[[], bool]) -> Params:
        from ..registration.register import register

        warm = self._ct(params)
        images = self._xrays(params)
        start, options = self._begin(params, images)
        options |= views_options(params)
        if params.get("budget") is not None:
            options["budget"] = number(params, "budget", "request")
        told: Params = {"on_progress": lambda step: on_progress(progress_json(step)), "cancel": cancel}
        registrar = warm.registrar(_device(params), options["center"])
        if params.get("structures"):
            from ..registration.structures import register_structures

            options.pop("budget", None)
            parts = self._structures(params, warm)
            jointly = bool(params.get("jointly", True))
            found = register_structures(parts, images, start, whole=registrar, jointly=jointly, **told, **options)
            entries = [{"structure": name} | result.to_json() for name, result in found.items()]
            return entries[0] | {"structures": entries}
        return register(warm.ct, images, start, registrar=registrar, **told, **options).to_json()

    def _track(self, params: Params, on_progress: Callable[[Params], None], cancel: Callable[[], bool]) -> Params:
        """Follow the CT, or one structure, through stored frames; progress says each frame as it is done."""
        from ..imaging.xray import XrayImage
        from ..registration.tracking import track

        warm, carm = self._ct(params), _carm(params)
        stored = params.get("frames")
        if not isinstance(stored, list) or not stored:
            raise InputError("The request lacks 'frames', a list of at least one array [row, column].")
        first = XrayImage.from_array(self.arrays.load(stored[0]), carm)
        start, options = self._begin(params, [first])
        registrar = warm.registrar(_device(params), options["center"])
        if params.get("structures"):
            registrar = next(iter(self._structures(params, warm).values()))
            options["center"] = None
        rest = (first.next_frame(self.arrays.load(frame)) for frame in stored[1:])
        done = track(
            registrar.ct,
            chain([first], rest),
            start,
            on_frame=lambda frame: on_progress(frame.to_json()),
            cancel=cancel,
            registrar=registrar,
            **options,
        )
        return {"frames": [frame.to_json() for frame in done]}

    def _begin(self, params: Params, images: list[XrayImage]) -> tuple[Any, Params]:
        """Where to start, and the options of `register` that say what view and ranges are meant."""
        start = self._start(params, images[0])
        center = _numbers(params, "center")
        if center is None and hasattr(start, "hypotheses"):  # a model knows where its view turns
            center = np.asarray(start.center, float).tolist()
        options: Params = {"center": center}
        options |= {name: _each(params, name, number) for name in ("lao_rao", "cran_caud") if name in params}
        options |= {name: _numbers(params, name) for name in ("rotation", "translation") if params.get(name)}
        if params.get("view") is not None:
            options["view"] = _each(params, "view", lambda data, key, _: text(data, key))
        return start, options

    def _structures(self, params: Params, warm: WarmCT) -> dict[str, Registrar]:
        """A registrar for each structure: [{"name", "labels": array, "affine": 4x4, "label"}], kept while it is used.

        Raises:
            InputError: one is not understood, or lies outside the CT.
        """
        from ..imaging.labels import LabelMap
        from ..registration.register import Registrar

        found: dict[str, Registrar] = {}
        for item in params["structures"]:
            if not isinstance(item, dict) or not is_reference(item.get("labels")):
                raise InputError('A structure is {"name", "labels": {"npy": ...}, "affine": 4x4, "label": N}.')
            values = self.arrays.load(item["labels"])
            labels = LabelMap.from_array(values, np.asarray(item.get("affine", np.eye(4)), float))
            name = text(item, "name")
            mask = labels.mask(int(item.get("label", 1)), warm.ct)
            key = hashlib.sha256(np.packbits(mask).tobytes() + _device(params).encode()).hexdigest()
            found[name] = warm.structures.get(key) or warm.structures.put(
                key, Registrar(warm.ct.structure(mask, name=name), _device(params), isolated=True)
            )
        return found

    def _report(self, params: Params) -> Params:
        """Write the page of a registration for the patient's file."""
        from ..evaluation.report import write_report

        path = Path(text(params, "path"))
        patient = text(params, "patient") if params.get("patient") else ""
        result = _object(params, "result")
        try:
            ct = self._ct(params).ct
            write_report(path, ct, self._xrays(params), result, patient=patient, device=_device(params))
        except OSError:
            raise InputError(f"The file {path.name} cannot be written; choose another folder.") from None
        return {}

    def _start(self, params: Params, first: XrayImage) -> Any:
        """What `register` starts from: {"poses": {...}}, {"model": key}, {"landmarks": [...]} or a word."""
        start = params.get("start", "search")
        if isinstance(start, str):
            return start
        if isinstance(start, dict) and set(start) == {"poses"}:
            return poses_from_json(_object(start, "poses"), "start")
        if isinstance(start, dict) and set(start) == {"landmarks"}:
            from ..registration.landmarks import LandmarkPairs, pose_from_landmarks

            return pose_from_landmarks(LandmarkPairs.from_json(start), first.carm)[0]
        if isinstance(start, dict) and set(start) == {"model"}:
            model = self._models.get(text(start, "model"))
            if model is None:
                raise InputError("The model is not loaded; send load_model first.")
            return model
        raise InputError(
            'The start is not understood: give a word, {"poses": ...}, {"landmarks": ...} or {"model": key}.'
        )

    def _xrays(self, params: Params) -> list[XrayImage]:
        xrays = params.get("xrays")
        if not isinstance(xrays, list) or not xrays:
            raise InputError("The request lacks 'xrays', a list of at least one X-ray.")
        return [self._xray(item) for item in xrays]

    def _xray(self, item: Any) -> XrayImage:
        from ..imaging.xray import XrayImage

        if not isinstance(item, dict) or not ("path" in item or is_reference(item.get("pixels"))):
            raise InputError('An X-ray is {"path": ...} or {"pixels": {"npy": ...}, "carm": {...}}.')
        carm = _carm(item) if item.get("carm") is not None else None
        if "path" in item:
            return XrayImage.read(text(item, "path"), carm)
        if carm is None:
            raise InputError("The X-ray comes without its geometry; add 'carm'.")
        return XrayImage.from_array(self.arrays.load(item["pixels"]), carm)

    def _ct(self, params: Params) -> WarmCT:
        warm = self._cts.get(text(params, "ct"))
        if warm is None:
            raise InputError("The CT is not loaded; send load_ct first.")
        return warm

    def _held(self) -> list[str]:
        return self._cts.keys() + self._models.keys()


def views_options(params: Params) -> Params:
    """How several views lie to each other, and how well that is known. Raises InputError."""
    options: Params = {}
    if params.get("relative") is not None:
        options["relative"] = [rigid_matrix(one, "relative pose") for one in params["relative"]]
    if params.get("geometry") is not None:
        from ..registration.joint import GeometryPriors

        told = _object(params, "geometry")
        if unknown := set(told) - {field.name for field in fields(GeometryPriors)}:
            raise InputError(f"The request's geometry has {sorted(unknown)[0]!r}, which is not known.")
        options["geometry"] = GeometryPriors(**{name: number(told, name, "request") for name in told})
    return options


def _each(params: Params, key: str, read: Callable[[Params, str, str], Any]) -> Any:
    """One value out of a request, or a list of them, one for each X-ray."""
    value = params[key]
    return (
        [read({key: one}, key, "request") for one in value] if isinstance(value, list) else read(params, key, "request")
    )


def progress_json(step: Progress) -> Params:
    """An iteration as it travels in a progress event."""
    return {
        "iteration": step.iteration,
        "level": step.level,
        "cameraToRAS": step.pose.camera_to_ras.tolist(),
        "similarity": step.similarity,
        "seconds": step.seconds,
    }


def text(params: Params, key: str) -> str:
    """A text out of a request. Raises InputError."""
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"The request lacks {key!r}, a text.")
    return value


def _numbers(params: Params, key: str) -> list[float] | None:
    """Three numbers out of a request, or None where it says nothing."""
    return None if params.get(key) is None else numbers(params, key, 3, "request")


def _object(params: Params, key: str) -> Params:
    value = params.get(key)
    if not isinstance(value, dict):
        raise InputError(f"The request lacks {key!r}, an object.")
    return value


def _carm(params: Params) -> CArm:
    return CArm.from_json(_object(params, "carm"), "C-arm")


def _device(params: Params) -> str:
    return text(params, "device") if "device" in params else "auto"


def _slabs(params: Params) -> list[Any]:
    slabs = params.get("slabs")
    if not isinstance(slabs, list) or not slabs:
        raise InputError("A CT is loaded from 'path', or from 'slabs' (arrays along k) and 'affine'.")
    return slabs


def _ct_request(params: Params) -> str:
    """What tells one load_ct from another without reading voxels."""
    if "path" in params:
        path = Path(text(params, "path"))
        return f"{path.absolute()}|{_stamps(sorted(path.glob('*')) if path.is_dir() else [path])}"
    if "key" in params:
        return text(params, "key")
    return f"{[slab.get('npy') for slab in _slabs(params) if isinstance(slab, dict)]}|{params.get('affine')}"


def _stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    found = [(path.name, path.stat()) for path in paths if path.exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]
