"""What the worker can do, and what it keeps warm between requests. Knows nothing of processes and streams."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from .. import __version__
from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.files import number, numbers
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
        if method == "register":
            return self._register(params, on_progress, cancel)
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
        start = self._start(params, images[0])
        center = _numbers(params, "center")
        if center is None and hasattr(start, "hypotheses"):  # a model knows where its view turns
            center = np.asarray(start.center, float).tolist()
        options: Params = {name: number(params, name, "request") for name in ("lao_rao", "cran_caud") if name in params}
        options |= {name: _numbers(params, name) for name in ("rotation", "translation") if params.get(name)}
        if params.get("budget") is not None:
            options["budget"] = number(params, "budget", "request")
        if params.get("view") is not None:
            options["view"] = text(params, "view")
        result = register(
            warm.ct,
            images,
            start,
            center=center,
            device=_device(params),
            on_progress=lambda step: on_progress(progress_json(step)),
            cancel=cancel,
            registrar=warm.registrar(_device(params), center),
            **options,
        )
        return result.to_json()

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
