"""The seven networks as functions: all that the engine knows of a model, and the plain way to run them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from personalive.config import ModelConfig
from personalive.engine.motion import HeadPose, head_pose
from personalive.engine.raster import draw
from personalive.models.denoising_unet import ReferenceFeatures


class Features(Protocol):
    """What a denoising UNet attends to besides its frames. Only the networks that made it look inside."""

    def with_keyframe(self, keyframe: Any, /) -> "Features":
        """These features, and after them the tokens of a keyframe."""


class HostCopy(Protocol):
    """Values on their way to the host."""

    def result(self) -> npt.NDArray[Any]:
        """Wait for the values, not for work that was started after the copy. They belong to the caller."""


class Networks(Protocol):
    """The networks of one model; shared by streams, read-only, one call at a time.

    Images may be on the host; everything else is on `device`, and so are results.
    """

    @property
    def config(self) -> ModelConfig:
        """Sizes of the networks, and defaults."""

    @property
    def device(self) -> torch.device:
        """Where the networks run."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which they compute, except for the motion extractor, which is always in fp32."""

    def encode_image(self, images: Tensor) -> Tensor:
        """VAE: images [n, 3, H, W] in [-1, 1] → scaled latents [n, c, h, w]: the mean, not a sample."""

    def embed_image(self, images: Tensor) -> Tensor:
        """CLIP: normalised images [n, 3, s, s] → image embeddings [n, 1, e]."""

    def encode_reference(self, latents: Tensor, embedding: Tensor) -> Features:
        """Reference UNet: clean latents [n, c, h, w] and image embeddings [n, 1, e] → what `denoise` attends to."""

    def extract_pose(self, images: Tensor) -> HeadPose:
        """Motion extractor: images [n, 3, s, s] in [0, 1] → head poses, fp32."""

    def encode_motion(self, faces: Tensor) -> Tensor:
        """Motion encoder: face crops [n, 3, s, s] in [-1, 1] → motion tokens [n, tokens, width]."""

    def encode_driver(self, images: Tensor, faces: Tensor) -> tuple[HeadPose, Tensor]:
        """Both `extract_pose` of images and `encode_motion` of faces, at the same time where that is faster."""

    def guide(self, keypoints: Tensor, width: int, height: int) -> Tensor:
        """Pose guider: keypoints fp32 [n, 21, 3], drawn in that many pixels → pose features [n, c₀, h, w]."""

    def denoise(
        self, latents: Tensor, timesteps: tuple[int, ...], motion: Tensor, pose: Tensor, reference: Any
    ) -> Tensor:
        """Denoising UNet: one prediction for a window; shapes as in `DenoisingUNet`.

        Args:
            timesteps: of each frame, oldest first.
            reference: what `encode_reference` returned, with keyframes appended.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """VAE: scaled latents [n, c, h, w] → images [n, 3, H, W] in [0, 1], fp32."""

    def upload(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors, on the host or not, concatenated along the first axis on the device."""

    def download(self, tensor: Tensor) -> HostCopy:
        """Start copying values, uint8 or fp32, to the host."""

    def stage(self, tensor: Tensor) -> Tensor:
        """A tensor on the host that will be uploaded, in memory where that is fastest. Any thread may call this."""


class PlainNetworks:
    """The networks exactly as in `personalive.models`; see `Networks`."""

    def __init__(self, config: ModelConfig, modules: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
        """Take networks that are complete, on one device and in eval mode, by the names of `models.NETWORKS`."""
        self.config, self.dtype, self.modules = config, dtype, dict(modules)
        self.device = next(self.modules["denoising_unet"].parameters()).device

    def encode_image(self, images: Tensor) -> Tensor:
        vae: Any = self.modules["vae"]
        mean: Tensor = vae.encode(self._take(images))[0]
        return mean * self.config.vae.scaling_factor

    def embed_image(self, images: Tensor) -> Tensor:
        embedding: Tensor = self.modules["image_encoder"](self._take(images))
        return embedding

    def encode_reference(self, latents: Tensor, embedding: Tensor) -> ReferenceFeatures:
        return ReferenceFeatures(embedding, (self.modules["reference_unet"](self._take(latents), embedding),))

    def extract_pose(self, images: Tensor) -> HeadPose:
        return head_pose(self.modules["motion_extractor"](images.to(self.device, torch.float32)))

    def encode_motion(self, faces: Tensor) -> Tensor:
        tokens: Tensor = self.modules["motion_encoder"](self._take(faces))
        return tokens

    def encode_driver(self, images: Tensor, faces: Tensor) -> tuple[HeadPose, Tensor]:
        return self.extract_pose(images), self.encode_motion(faces)

    def guide(self, keypoints: Tensor, width: int, height: int) -> Tensor:
        features: Tensor = self.modules["pose_guider"](self._take(draw(keypoints, width, height)))
        return features

    def denoise(
        self, latents: Tensor, timesteps: tuple[int, ...], motion: Tensor, pose: Tensor, reference: Any
    ) -> Tensor:
        times = torch.tensor(timesteps, device=self.device)
        prediction: Tensor = self.modules["denoising_unet"](self._take(latents), times, motion, pose, reference)
        return prediction

    def decode(self, latents: Tensor) -> Tensor:
        vae: Any = self.modules["vae"]
        images: Tensor = vae.decode(self._take(latents) * (1 / self.config.vae.scaling_factor))
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def upload(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).to(self.device)

    def download(self, tensor: Tensor) -> HostCopy:
        return _Copied(tensor)

    def stage(self, tensor: Tensor) -> Tensor:
        return tensor

    def _take(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)


class _Copied:
    """A copy that is made when its result is requested."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def result(self) -> npt.NDArray[Any]:
        return np.asarray(self._tensor.cpu().numpy())
