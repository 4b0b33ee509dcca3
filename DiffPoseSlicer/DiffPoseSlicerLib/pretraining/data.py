"""Training images: random poses rendered and made into fluoroscopies while the network learns."""

from __future__ import annotations

import queue
import threading
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..imaging.ct import CTVolume
from ..imaging.formation import Effects, draw_effects, form
from ..rendering.renderer import Projector
from .anatomy import variants
from .recentring import drawn_turns, filled, turned, window
from .sampling import offsets_to_poses, sample_offsets
from .settings import Settings, Task
from .view import network_carm


class Source:
    """Makes the batches of a job. Batch number n is the same whenever and wherever it is made, for the same settings.

    Args:
        ct: The CT.
        task, settings, seed: The job.
        device: torch device; "cuda..." renders and makes images there, "cpu" in numpy, which leaves torch's threads to
            the network.
        rank, world: Which part of every batch is this process's.
    """

    def __init__(
        self, ct: CTVolume, task: Task, settings: Settings, seed: int, device: str, rank: int = 0, world: int = 1
    ) -> None:
        self.task, self.settings, self.seed, self.device = task, settings, seed, device
        self.carm = network_carm(task.carm, settings.pixels)
        self._part = slice(rank, None, world)
        self._projectors = [Projector(grid, device) for grid in variants(ct, settings.voxel_mm)]
        # For losses that render: the CT as it is, with no thread but the caller's using it.
        self.plain = Projector(ct.level(settings.voxel_mm), device) if settings.similarity else None

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Images (n, rows, columns) and their true offsets (n, 6) of a batch; number -1, -2, ... are for validation."""
        rng = np.random.default_rng([self.seed, number % 2**40])
        settings, n = self.settings, self.settings.batch
        offsets = sample_offsets(rng, n, self.task.rotation, self.task.translation, self.task.carm)
        projector = self._projectors[rng.integers(len(self._projectors))]
        effects = draw_effects(rng, n, self.carm, clutter=settings.clutter, display=settings.display)
        # Most collimated images have the outside filled in, as `view.network_image` fills what a mask excludes: that is
        # what surgery shows unless the collimator's edge was not found.
        fill = (rng.random(n) < 0.8)[self._part]
        inside = None
        if settings.second_looks and number >= 0:  # validation is of first looks alone: always the same task
            again = rng.random(n) < settings.second_looks
            turns = drawn_turns(rng, offsets, self.carm)
            offsets[again] = turned(offsets[again], turns[again], self.carm)
            inside = (~again[:, None, None] | window(turns, self.carm))[self._part]
        offsets = offsets[self._part]
        poses = offsets_to_poses(offsets, self.task.axes, self.task.center, self.carm)
        shape = (n, *self.carm.image_size)
        if self.device == "cpu":
            noise = rng.standard_normal(shape, dtype=np.float32)[self._part]
            paths = projector.project(self.carm, poses).reshape(-1, *self.carm.image_size)
            images, lit = form(paths, self._effects(effects, np.asarray), self.carm, noise)
            keep = lit | ~fill[:, None, None]
            images = torch.from_numpy(filled(images, keep if inside is None else keep & inside))
        else:
            generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
            static = torch.randn(shape, device=self.device, generator=generator)[self._part]
            paths = projector.project_torch(self.carm, poses).reshape(-1, *self.carm.image_size)
            on_device = lambda array: torch.from_numpy(array.copy()).to(self.device)  # noqa: E731
            images, lit = form(paths, self._effects(effects, on_device), self.carm, static, torch)
            keep = lit | ~on_device(fill)[:, None, None]
            keep = keep if inside is None else keep & on_device(inside)
            images = filled(images, keep)
        return images, torch.from_numpy(offsets.astype(np.float32)).to(self.device)

    def _effects(self, effects: Effects, convert: Any) -> Effects:
        """This process's part of the effects, as arrays of another kind."""
        return Effects(**{f.name: convert(getattr(effects, f.name)[self._part]) for f in fields(effects)})


class Prefetch:
    """Makes batches ahead, in a thread: rendering and numpy let go of Python while they work.

    with Prefetch(source, first) as batches:
        images, offsets = batches.next()
    """

    def __init__(self, source: Source, first: int, ahead: int = 3) -> None:
        self._source, self._number = source, first
        self._ready: queue.Queue[Any] = queue.Queue(ahead)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def __enter__(self) -> Prefetch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._end.is_set():
            try:
                item: Any = self._source.batch(self._number)
            except BaseException as error:  # given to whoever waits for the batch
                item = error
            self._number += 1
            while not self._end.is_set():
                try:
                    self._ready.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch. Raises what making it raised."""
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item
