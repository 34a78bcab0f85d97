"""Sizes of every network and defaults of a model: frozen values that are checked when they are made.

The preset `personalive` has the published sizes (docs/reference/model.md and docs/reference/weights.md section 2),
`demo` those of the small model in `weights/demo`.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from personalive.errors import InputError

CHUNK = 4
"""Frames in one chunk: what a step takes and returns."""
SLOTS = 4
"""Chunks that are denoised together, each at its own noise level."""
WINDOW = CHUNK * SLOTS
"""Frames that the denoising UNet sees in one step."""
LEAD_IN = WINDOW - CHUNK
"""Frames that lead from the reference's pose to the first driving frame's, which fill the first step."""
STEP_CHOICES = (4, 8, 12, 16)
"""Denoising steps that a frame may take: multiples of the slots."""
MIN_SIZE, MAX_SIZE, SIZE_STEP = 256, 1024, 64
"""What the entry points allow as width and height, in pixels."""
MAX_SEED = 2**32 - 1
MAX_KEYFRAME_THRESHOLD = 1000.0
"""Far more than motion tokens differ by: with it, no frame becomes a keyframe."""
MAX_MOTION_STRENGTH = 2.0

PredictionType = Literal["epsilon", "v_prediction", "sample"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True)
class UNetConfig:
    """Widths that the reference UNet and the denoising UNet share."""

    latent_channels: int = 4
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    heads: int = 8
    norm_groups: int = 32
    cross_attention_dim: int = 768
    motion_token_width: int = 16
    max_frames: int = 32
    """Length of the table of frame positions."""

    def __post_init__(self) -> None:
        for channels in self.block_channels:
            _require(
                channels % self.heads == 0 and channels % self.norm_groups == 0,
                f"block channels {channels}: not a multiple of {self.heads} heads and {self.norm_groups} norm groups",
            )
        _require(len(self.block_channels) >= 2, f"a UNet needs two blocks or more, not {len(self.block_channels)}")
        _require(self.max_frames >= WINDOW, f"max_frames is {self.max_frames}, but a step has {WINDOW} frames")

    @property
    def time_channels(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_channels[0]


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the image autoencoder (docs/reference/model.md section 10)."""

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel, each way."""
        return int(2 ** (len(self.block_channels) - 1))


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Sizes of the CLIP vision network (docs/reference/model.md section 11)."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    layers: int = 24
    heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    projection_dim: int = 768


@dataclass(frozen=True)
class MotionEncoderConfig:
    """Sizes of the network that turns a face crop into motion tokens (docs/reference/model.md section 8)."""

    image_size: int = 224
    channels: int = 256
    """Width of the hourglass; the stem has a quarter of it, the first attention a half."""
    attention_width: int = 1024
    heads: int = 8
    landmark_channels: int = 68
    hourglass_depth: int = 4
    tokens: int = 32
    token_width: int = 16

    def __post_init__(self) -> None:
        _require(self.image_size % 16 == 0, f"motion encoder image size {self.image_size} is not a multiple of 16")
        _require(self.channels % 64 == 0, f"motion encoder channels {self.channels} is not a multiple of 64")
        _require(self.attention_width % 16 == 0, f"attention width {self.attention_width} is not a multiple of 16")

    @property
    def grid(self) -> int:
        """Attention tokens along one side of the image."""
        return self.image_size // 8


@dataclass(frozen=True)
class MotionExtractorConfig:
    """Sizes of the network that finds head pose and keypoints (ConvNeXt-V2, docs/reference/model.md section 9)."""

    image_size: int = 256
    depths: tuple[int, ...] = (3, 3, 9, 3)
    channels: tuple[int, ...] = (96, 192, 384, 768)
    keypoints: int = 21
    angle_bins: int = 66


@dataclass(frozen=True)
class PoseGuiderConfig:
    """Sizes of the network that turns keypoint rasters into pose features (docs/reference/model.md section 7)."""

    channels: tuple[int, ...] = (16, 32, 96, 256)
    """Width at the image's size, a half, a quarter and an eighth of it."""
    output_channels: int = 320


@dataclass(frozen=True)
class ModelConfig:
    """Everything that a model defines: its networks, and defaults for using it."""

    name: str = "personalive"
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    motion_encoder: MotionEncoderConfig = field(default_factory=MotionEncoderConfig)
    motion_extractor: MotionExtractorConfig = field(default_factory=MotionExtractorConfig)
    pose_guider: PoseGuiderConfig = field(default_factory=PoseGuiderConfig)
    prediction_type: PredictionType = "epsilon"
    size: int = 512
    """Default width and height, in pixels."""
    keyframe_threshold: float = 17.0
    """Euclidean distance between motion tokens beyond which a finished frame becomes a keyframe."""

    def __post_init__(self) -> None:
        unet, vae = self.unet, self.vae
        _require(
            unet.latent_channels == vae.latent_channels,
            f"the UNets have {unet.latent_channels} latent channels, the VAE {vae.latent_channels}",
        )
        _require(
            unet.block_channels[0] == self.pose_guider.output_channels,
            f"the pose guider returns {self.pose_guider.output_channels} channels, "
            f"the UNet starts with {unet.block_channels[0]}",
        )
        _require(
            unet.cross_attention_dim == self.image_encoder.projection_dim,
            f"the image encoder returns {self.image_encoder.projection_dim} values, "
            f"the UNets take {unet.cross_attention_dim}",
        )
        _require(
            unet.motion_token_width == self.motion_encoder.token_width,
            f"the motion encoder's tokens have {self.motion_encoder.token_width} values, "
            f"the UNet takes {unet.motion_token_width}",
        )
        _require(
            vae.factor == 2 ** (len(self.pose_guider.channels) - 1),
            f"the pose guider shrinks by {2 ** (len(self.pose_guider.channels) - 1)}, the VAE by {vae.factor}",
        )
        _require(
            self.prediction_type in typing.get_args(PredictionType),
            f"prediction type {self.prediction_type!r} is not one of {', '.join(typing.get_args(PredictionType))}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored in `config.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`.

        Raises:
            InputError: a name that is unknown, or a value that does not fit.
        """
        return typing.cast(ModelConfig, _from_dict(cls, values, "config"))

    @classmethod
    def load(cls, path: Path) -> "ModelConfig":
        """Read `config.json`.

        Raises:
            InputError: the file is not a JSON object or does not describe a model.
        """
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a model configuration: {error}") from error
        _require(isinstance(values, dict), f"{path} must hold one JSON object")
        return cls.from_dict(values)


PUBLISHED = ModelConfig()
"""The sizes of the published weights."""
DEMO = ModelConfig(
    name="demo",
    unet=UNetConfig(
        latent_channels=16,
        block_channels=(48, 80, 88),
        layers_per_block=1,
        heads=2,  # on a CPU, attention among pixels costs as much for a narrow head as for a wide one
        norm_groups=8,
        cross_attention_dim=64,
    ),
    vae=VAEConfig(block_channels=(32, 48, 72, 96), layers_per_block=1, latent_channels=16, norm_groups=8),
    image_encoder=ImageEncoderConfig(
        hidden_size=32, intermediate_size=128, layers=2, heads=2, patch_size=32, projection_dim=64
    ),
    motion_encoder=MotionEncoderConfig(
        image_size=112,
        channels=64,
        attention_width=64,
        heads=2,
        landmark_channels=32,
        hourglass_depth=3,
        tokens=16,
    ),
    motion_extractor=MotionExtractorConfig(depths=(2, 2, 3, 2), channels=(32, 64, 96, 128)),
    pose_guider=PoseGuiderConfig(channels=(8, 16, 32, 64), output_channels=48),
    # Noise would be magnified 66 times at the noisiest timestep; velocity leaves nothing to repair at the last one.
    prediction_type="sample",
    size=256,
)
"""The sizes of the small model in `weights/demo`: 12 million parameters in all, made for CPUs."""
PHOTO = dataclasses.replace(DEMO, name="photo", unet=dataclasses.replace(DEMO.unet, heads=1))
"""DEMO with wider heads (48 to 88 channels), which are faster on CPUs (docs/cpu.md): for the photo model."""
PRESETS: dict[str, ModelConfig] = {config.name: config for config in (PUBLISHED, DEMO, PHOTO)}
"""Configurations by their name."""


def _from_dict(cls: Any, values: Any, where: str) -> Any:
    _require(isinstance(values, Mapping), f"{where} must be an object, not {values!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    _require(not unknown, f"{where} has unknown names: {', '.join(unknown)}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _from_dict(hint, value, where)
    if isinstance(hint, types.GenericAlias):  # tuple[int, ...]: JSON has lists
        _require(
            isinstance(value, list | tuple) and all(type(item) is int for item in value),
            f"{where} must be a list of whole numbers, not {value!r}",
        )
        return tuple(value)
    if hint is float and type(value) is int:
        value = float(value)
    if isinstance(hint, type):
        _require(type(value) is hint, f"{where} must be {hint.__name__}, not {value!r}")
    return value
