"""A trained network in use: from an X-ray to the poses it may have been taken from."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import Pose
from ..geometry.se3 import Array
from ..imaging.xray import XrayImage
from .checkpoint import load_checkpoint
from .job import Job
from .network import NetworkConfig, PoseNetwork
from .recentring import looks, turned, turned_images
from .settings import Task
from .view import network_carm, network_image

# An expected error below these (rad, mm) needs no second guess: refinement starts within reach anyway.
_SURE = np.array([np.deg2rad(5.0)] * 3 + [15.0, 15.0, 30.0])
# As many expected errors on each axis enclose the poses that a closer look starts from.
_LIKELY = 2.5


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image.

    Attributes:
        offset: (omega, v) (6,), rad and mm, about the view (`geometry.Pose.about`).
        spread: Expected error (6,) of each component, one sigma, rad and mm.
        seen: Fraction of the trained field of view that the image shows.
    """

    offset: Array
    spread: Array
    seen: float


class PoseModel:
    """A trained network with the task it was trained for. Make one with :meth:`load` or `pretrain`."""

    def __init__(self, network: PoseNetwork, task: Task, data: dict[str, Any], notes: tuple[str, ...] = ()) -> None:
        self.task = task
        self.notes = notes
        self.data = data
        self.certificate: dict[str, Any] | None = None
        self.folder: Path | None = None
        self._network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._calibration = np.array(data.get("calibration", [1.0] * 6))
        # The last X-ray read in each thread, how, and what was said of it: guess and warnings ask for the same one.
        self._last = threading.local()

    @classmethod
    def load(cls, job_folder: str | os.PathLike[str]) -> PoseModel:
        """The model of a job folder; where training is not finished, the best so far, which `notes` then says.

        Raises:
            InputError: no job, nothing learnt yet, or a file is damaged or of another version.
        """
        folder = Path(job_folder)
        notes: tuple[str, ...] = ()
        if (folder / "model.safetensors").is_file():
            tensors, data = load_checkpoint(folder / "model.safetensors")
        else:
            job = Job.open(folder)
            tensors, data = load_checkpoint(folder / "checkpoint.safetensors")
            tensors = {k[len("average.") :]: v for k, v in tensors.items() if k.startswith("average.")}
            share = min(data["seconds"] / job.settings.seconds, 1)
            notes = (f"The model is not finished: {share:.0%} of its training time was used.",)
        try:
            task = Task.from_json(data["task"])
            network = PoseNetwork(NetworkConfig.from_json(data["network"]), task.ranges)
            network.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError):
            raise InputError(f"The model in {folder.name} is damaged or of another version; train it again.") from None
        model = cls(network, task, data, notes)
        from .certificate import read_certificate

        model.certificate, model.folder = read_certificate(folder), folder
        return model

    @property
    def carm(self) -> CArm:
        """The C-arm it was trained for."""
        return self.task.carm

    @property
    def view(self) -> str:
        """The nominal view's name."""
        return self.task.view

    @property
    def center(self) -> Array:
        """Isocentre, RAS mm: (3,)."""
        return np.array(self.task.center)

    @property
    def rotation(self) -> Array:
        """Half-ranges of the rotation, degrees: (3,)."""
        return np.array(self.task.rotation)

    @property
    def translation(self) -> Array:
        """Half-ranges of the shift, mm: (3,)."""
        return np.array(self.task.translation)

    @property
    def fingerprint(self) -> str:
        """Of the CT it was trained on."""
        return str(self.data.get("fingerprint", ""))

    @property
    def nominal(self) -> Pose:
        """The pose in the middle of the range."""
        return self.task.nominal

    @cached_property
    def _carm(self) -> CArm:
        """The camera whose rays the network sees."""
        config = self._network.config
        return network_carm(self.task.carm, max(config.rows, config.columns))

    def read(self, xray: XrayImage) -> Prediction:
        """What the network says of an X-ray, of any C-arm.

        Raises:
            InputError: the image shows less than a quarter of the field of view the network was trained for.
        """
        twice = self.data.get("looksTwice")
        reading: tuple[XrayImage, Any, Prediction] | None = getattr(self._last, "reading", None)
        if reading is None or reading[0] is not xray or reading[1] != twice:
            reading = self._last.reading = (xray, twice, self._read(xray))
        return reading[2]

    def _read(self, xray: XrayImage) -> Prediction:
        image, seen = network_image(xray, self._carm)
        if seen.mean() < 0.25:
            raise InputError(
                f"The X-ray shows {seen.mean():.0%} of the field of view that the model was trained for; train one for "
                "this C-arm, or start from a pose."
            )
        (offset,), (spread,) = self._run(image[None])
        if self.data.get("looksTwice"):
            turns = looks(offset, self._carm)
            offsets, spreads = self._run(turned_images(xray, self._carm, turns))
            back = turned(offsets, np.swapaxes(turns, 1, 2), self._carm)
            offset, spread = back.mean(0), spreads.mean(0)
        return Prediction(offset, spread, float(seen.mean()))

    def _run(self, images: NDArray[np.float32]) -> tuple[Array, Array]:
        """Offsets and expected errors (n, 6) of images (n, rows, columns) on the network's rays."""
        # One image through a network this small is slower on two threads than on one: they wait more than they work.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                offset, log_spread = self._network(torch.from_numpy(images))
        finally:
            torch.set_num_threads(threads)
        spread = np.exp(log_spread.double().numpy()) * self.task.ranges * self._calibration
        return offset.double().numpy(), spread

    def predict(self, xray: XrayImage) -> Pose:
        """The most likely pose. Raises InputError as :meth:`read`."""
        return self.task.pose(self.read(xray).offset)

    def warnings(self, xray: XrayImage, pose: Pose | None = None, fingerprint: str | None = None) -> list[str]:
        """In which ways an X-ray, or the model itself, lies outside what was certified: sentences for the user.

        Args:
            xray: The X-ray.
            pose: Where it was found to be taken from; default where the network takes it from.
            fingerprint: Of the CT it is registered to.
        """
        said = list(self.notes)
        if fingerprint is not None and self.fingerprint != fingerprint:
            said.append("The model was prepared from another CT, or from another crop of this one.")
        if self.certificate is None:
            said.append("The model has no certificate.")
        elif not self.certificate["certified"]:
            said.append(f"The model is not certified: {'; '.join(self.certificate['reasons'])}.")
        own, given = self.carm.source_to_detector, xray.carm.source_to_detector
        if abs(given / own - 1) > 0.2:
            said.append(f"The model was certified for a detector at {own:g} mm, the X-ray's is at {given:g} mm.")
        reading = self.read(xray)
        if reading.seen < 0.8:
            said.append(f"The X-ray shows {reading.seen:.0%} of the field of view that was certified.")
        doubt = float((reading.spread / self.task.ranges).max())
        usual = (self.certificate or {}).get("doubt95")
        if usual is not None and doubt > 2 * usual:
            said.append("The network is less sure of this X-ray than of any kind that was certified.")
        offset = reading.offset if pose is None else pose.offset_from(self.task.axes, self.center, self.carm)
        # A range of zero in one component means "as the view says", not "to the last micrometre".
        room = 1.1 * self.task.ranges + [*np.deg2rad([1.0] * 3), 2.0, 2.0, 2.0]
        if (np.abs(offset) > room).any():
            said.append("The X-ray was taken from outside the range of poses that was certified.")
        return said

    def hypotheses(self, xray: XrayImage) -> list[Pose]:
        """Poses to start from, best first: one where the network is sure of itself, else three along the direction in
        which it is least sure. Raises InputError as :meth:`read`."""
        said = self.read(xray)
        offsets = [said.offset]
        doubt = said.spread / _SURE
        if doubt.max() > 1:
            along = np.where(doubt > 0.7 * doubt.max(), said.spread, 0)
            offsets += [said.offset + 1.3 * along, said.offset - 1.3 * along]
        limit = 1.2 * self.task.ranges
        return [self.task.pose(np.clip(offset, -limit, limit)) for offset in offsets]

    def likely(self, xray: XrayImage) -> tuple[Pose, Array, Array]:
        """Where the pose most likely is: the guess and half-ranges about it per camera axis, (3,) degrees and (3,) mm.
        Raises InputError as :meth:`read`."""
        half = _LIKELY * self.read(xray).spread
        return self.predict(xray), np.rad2deg(half[:3]), half[3:]
