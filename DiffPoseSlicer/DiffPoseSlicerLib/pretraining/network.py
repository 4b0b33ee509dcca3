"""The network: a compact residual network with GroupNorm that reads an offset (omega, v) from one X-ray.

GroupNorm rather than BatchNorm: an image's answer never depends on its batch, and small batches train as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn


@dataclass(frozen=True)
class NetworkConfig:
    """What rebuilds a network: input size in pixels, channels of the first stage, blocks a stage, stem, hidden."""

    rows: int
    columns: int
    width: int = 32
    depths: tuple[int, ...] = (1, 1, 1, 1)
    hidden: int = 256
    stem: int = 2

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "depths": list(self.depths)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkConfig:
        return cls(**{**data, "depths": tuple(data["depths"])})


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, channels)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = _norm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = _norm(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        return torch.relu(self.shortcut(x) + y)


class PoseNetwork(nn.Module):
    """Images (n, rows, columns), attenuation-like with any scale, to offsets (n, 6) in rad and mm and their scatter.

    Args:
        config: Sizes.
        ranges: Half-ranges (6,) of the offsets; outputs are in units of these.
    """

    def __init__(self, config: NetworkConfig, ranges: ArrayLike) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("ranges", torch.tensor(np.asarray(ranges, np.float32).clip(1e-4)))
        width, inputs = config.width, 2 * config.stem**2
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(config.stem), nn.Conv2d(inputs, width, 3, 1, 1, bias=False), _norm(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        channels = width
        rows, columns = config.rows // config.stem, config.columns // config.stem
        for stage, depth in enumerate(config.depths):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                outputs = width << stage
                stages.append(Block(channels, outputs, stride))
                channels = outputs
                rows, columns = -(-rows // stride), -(-columns // stride)
        self.stages = nn.Sequential(*stages)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(channels * rows * columns, config.hidden), nn.ReLU())
        self.offset = nn.Linear(config.hidden, 6)
        self.spread = nn.Linear(config.hidden, 6)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (n, 6) and the logarithm (n, 6) of their expected error, in units of the ranges.

        The expected error is read from the features without shaping them: it never costs accuracy.
        """
        x = normalised(images).contiguous(memory_format=torch.channels_last)
        features = self.hidden(self.stages(self.stem(x)))
        return self.offset(features) * self.ranges, self.spread(features.detach()).clamp(-7, 2)


def _box(images: Tensor) -> Tensor:
    """The mean over 9 x 9 pixels, along one axis after the other: a fifth of the work."""
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    return nn.functional.avg_pool2d(nn.functional.avg_pool2d(padded, (9, 1), 1), (1, 9), 1)


def normalised(images: Tensor) -> Tensor:
    """(n, rows, columns) to (n, 2, rows, columns): the image standardised, and without its local mean and contrast.

    Nothing is left of the image's scale and offset; the second channel also loses smooth shading, scatter and curves.
    """
    x = images[:, None]
    x = x - x.mean((2, 3), keepdim=True)
    x = x / (x.std((2, 3), keepdim=True) + 1e-6)
    mean = _box(x)
    local = (x - mean) / (_box((x - mean).square()) + 0.01).sqrt()
    return torch.cat([x.clamp(-4, 4), local], 1)
