"""Pictures → what the networks see of them (docs/reference/streaming.md sections 2 and 3).

Two preparations exist, as in the published model. With face boxes found in the picture (a face mesh), everything is
resized with Lanczos; without, the face is cut out by the keypoints that the motion extractor finds, and driving frames
are resized bilinearly, which is faster and made for live frames. Their features cannot be mixed within a stream.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from personalive.config import ModelConfig
from personalive.engine.cues import PLAIN, Cue, cue_of, cue_rows, join_rows
from personalive.errors import InputError
from personalive.types import Box, RGBArray

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Reference:
    """What the networks see of a portrait: fp32 on the CPU."""

    vae_image: Tensor
    """[1, 3, height, width] in [-1, 1]."""
    clip_image: Tensor
    """[1, 3, s, s], normalised as CLIP expects."""
    pose_image: Tensor
    """[1, 3, s, s] in [0, 1]."""
    face: Tensor | None
    """[1, 3, s, s] in [-1, 1]; None if it is to be cut out by keypoints."""


@dataclass(frozen=True)
class DrivingFrames:
    """What the networks see of n driving frames: fp32 on the CPU. It can be sliced and joined along the frames."""

    pose_images: Tensor
    """[n, 3, s, s] in [0, 1]."""
    faces: Tensor | None
    """[n, 3, s, s] in [-1, 1]; None if they are to be cut out of `frames` by keypoints."""
    frames: Tensor | None
    """[n, 3, height, width] in [-1, 1]; given where `faces` is not."""
    cues: Tensor | None = None
    """How each frame's motion is used, fp32 [n, 3]: the fields of `Cue`. None: all are `cues.PLAIN`."""

    def __post_init__(self) -> None:
        if (self.faces is None) == (self.frames is None):
            raise InputError("driving frames need either face crops or whole frames")

    def __len__(self) -> int:
        return len(self.pose_images)

    def __getitem__(self, frames: slice) -> "DrivingFrames":
        return self.each(lambda part: part[frames])

    def join(self, later: "DrivingFrames") -> "DrivingFrames":
        """These frames, then `later`.

        Raises:
            InputError: one has face crops and the other whole frames.
        """
        if (self.faces is None) != (later.faces is None):
            raise InputError("frames with face boxes and frames without cannot be mixed in one animation")
        pairs = [(getattr(self, field.name), getattr(later, field.name)) for field in fields(self)[:-1]]
        images: Any = [None if a is None else torch.cat((a, b)) for a, b in pairs]
        pose_images, faces, frames = images
        return DrivingFrames(pose_images, faces, frames, join_rows(self.cues, len(self), later.cues, len(later)))

    def cue(self, frame: int) -> Cue:
        """How a frame's motion is used."""
        return cue_of(self.cues, frame)

    def each(self, change: Callable[[Tensor], Tensor]) -> "DrivingFrames":
        """These frames, every tensor changed."""
        parts = [getattr(self, field.name) for field in fields(self)]
        changed: Any = [None if part is None else change(part) for part in parts]
        return DrivingFrames(*changed)


def _check(image: RGBArray) -> RGBArray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"a picture must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
    return image


def _resize(image: RGBArray, width: int, height: int, resample: Image.Resampling) -> RGBArray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def _unit(images: Sequence[RGBArray]) -> Tensor:
    """Pictures of one size → [n, 3, h, w] in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def bilinear(images: Tensor, size: int) -> Tensor:
    """[n, 3, h, w] → [n, 3, size, size] without antialiasing, as the published live path does."""
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


class Preprocessor:
    """Prepares pictures for one model at one output size. It keeps nothing and may be shared by threads."""

    def __init__(
        self, config: ModelConfig, width: int, height: int, stage: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Prepare for outputs of `width` × `height` pixels.

        Args:
            stage: applied to every tensor of driving frames, see `Networks.stage`; default: nothing.

        Raises:
            InputError: a size that is not a positive multiple of the model's VAE factor.
        """
        factor = config.vae.factor
        for name, value in (("width", width), ("height", height)):
            if value <= 0 or value % factor:
                raise InputError(f"{name} is {value}: it must be a positive multiple of {factor}")
        self.width, self.height = width, height
        self._stage = stage
        self.pose_size = config.motion_extractor.image_size
        self.face_size = config.motion_encoder.image_size
        self.clip_size = config.image_encoder.image_size

    def reference(self, image: RGBArray, face_box: Box | None) -> Reference:
        """Prepare the portrait.

        Args:
            image: uint8 [h, w, 3] of any size; stretched to the output's aspect ratio.
            face_box: the face in pixels of `image`; None to have it cut out by keypoints.

        Raises:
            InputError: not such a picture, or a box outside it.
        """
        _check(image)
        clip = self._squashed_for_clip(image) if face_box else self._cropped_for_clip(image)
        mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        lanczos = Image.Resampling.LANCZOS
        return Reference(
            vae_image=_unit([_resize(image, self.width, self.height, lanczos)]) * 2 - 1,
            clip_image=(_unit([clip]) - mean) / std,
            pose_image=_unit([_resize(image, self.pose_size, self.pose_size, lanczos)]),
            face=self.faces([image], [face_box]) if face_box else None,
        )

    def driving(
        self, images: Sequence[RGBArray], face_boxes: Sequence[Box] | None, cues: Sequence[Cue] | None = None
    ) -> DrivingFrames:
        """Prepare driving frames.

        Args:
            images: one or more pictures, uint8 [h, w, 3] each, of any size.
            face_boxes: one box per picture, in its pixels; None to have faces cut out by keypoints.
            cues: how each picture's motion is used; None: as it is.

        Raises:
            InputError: not such a picture, or a box outside it.
        """
        images = [_check(image) for image in images]
        lanczos = Image.Resampling.LANCZOS
        if face_boxes is None:
            frames = _unit([_resize(image, self.width, self.height, lanczos) for image in images]) * 2 - 1
            prepared = DrivingFrames(bilinear(frames, self.pose_size) / 2 + 0.5, None, frames)
        else:
            pose_images = _unit([_resize(image, self.pose_size, self.pose_size, lanczos) for image in images])
            prepared = DrivingFrames(pose_images, self.faces(images, face_boxes), None)
        if self._stage is not None:
            prepared = prepared.each(self._stage)
        return prepared if cues is None or all(cue == PLAIN for cue in cues) else replace(prepared, cues=cue_rows(cues))

    def faces(self, images: Sequence[RGBArray], boxes: Sequence[Box]) -> Tensor:
        """Face crops for the motion encoder, [n, 3, s, s] in [-1, 1]: one box per picture, in its pixels.

        Raises:
            InputError: a box outside its picture.
        """
        crops = []
        for image, (left, top, right, bottom) in zip(images, boxes, strict=True):
            height, width = image.shape[:2]
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise InputError(
                    f"face box {(left, top, right, bottom)} does not lie within a picture of {width}×{height} pixels"
                )
            crop = image[top:bottom, left:right]
            crops.append(_resize(crop, self.face_size, self.face_size, Image.Resampling.LANCZOS))
        return _unit(crops) * 2 - 1

    def _squashed_for_clip(self, image: RGBArray) -> RGBArray:
        return _resize(image, self.clip_size, self.clip_size, Image.Resampling.BICUBIC)

    def _cropped_for_clip(self, image: RGBArray) -> RGBArray:
        """The centre of the picture after its shorter edge is resized."""
        size, (height, width) = self.clip_size, image.shape[:2]
        short = min(height, width)
        image = _resize(image, size * width // short, size * height // short, Image.Resampling.BICUBIC)
        top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
        return image[top : top + size, left : left + size]
