"""The networks of one model as functions. `PersonaLive` holds weights and nothing of any animation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from personalive import models, weights
from personalive.accel.accelerator import DEFAULT_ACCELERATION, Acceleration, AccelerationName, QuantizeName
from personalive.accel.cuda_graphs import GraphFunction
from personalive.accel.ops.attention import AttentionName
from personalive.accel.transfer import joined, upload
from personalive.config import WINDOW, ModelConfig
from personalive.engine.batch import advance
from personalive.engine.keypoints import HeadPose, draw, head_pose, project, retarget
from personalive.engine.preprocess import DrivingFrames
from personalive.engine.stream import Stream
from personalive.models.motion_encoder import MotionEncoder
from personalive.models.motion_extractor import MotionExtractor
from personalive.models.pose_guider import PoseGuider
from personalive.models.tiny_vae import replace_decoder
from personalive.models.unet import DenoisingUNet, ReferenceFeatures, ReferenceUNet, TimeFeatures

WINDOWS_AT_ONCE = 1
"""Windows that the denoising UNet takes together: one fills a GPU, and more gain little for the memory they need."""

Source = tuple[HeadPose, HeadPose, Tensor, Tensor]
"""What a stream's motion is taken over with: the reference's pose, the driver's first pose, the reference's motion
tokens [1, tokens, width], and the motion strength, fp32 [1]."""


class PersonaLive:
    """A loaded model, shared and read-only: any number of streams may use it, one call at a time."""

    def __init__(
        self,
        config: ModelConfig,
        networks: Mapping[str, nn.Module],
        dtype: torch.dtype,
        acceleration: Acceleration | None = None,
    ) -> None:
        """Take networks that are complete, on one device, and in eval mode, by the names of `models.NETWORKS`.

        Args:
            acceleration: changes the networks in place; without, they run as they are.
        """
        self.config, self.dtype = config, dtype
        self.reference_unet = cast(ReferenceUNet, networks["reference_unet"])
        self.denoising_unet = cast(DenoisingUNet, networks["denoising_unet"])
        self.motion_encoder = cast(MotionEncoder, networks["motion_encoder"])
        self.motion_extractor = cast(MotionExtractor, networks["motion_extractor"])
        self.pose_guider = cast(PoseGuider, networks["pose_guider"])
        self.vae: Any = networks["vae"]
        self.image_encoder: Any = networks["image_encoder"]
        self.device = next(self.denoising_unet.parameters()).device
        # What calls run: the networks themselves, or what the acceleration makes of them.
        self._extract_pose: Callable[[Tensor], HeadPose] = self._run_extractor
        self._encode_motion: Callable[[Tensor], Tensor] = self.motion_encoder
        self._follow: Callable[..., list[tuple[Tensor, Tensor]]] = self._run_follower
        self._guide: Callable[[Tensor, int, int], Tensor] = self._run_guider
        self._denoise: Callable[..., Tensor] = self.denoising_unet
        self._decoder: Callable[[Tensor], Tensor] = lambda latents: self.vae.decode(latents).sample
        self._decode: Callable[[Tensor], tuple[Tensor, Tensor]] = self._run_decoder
        self.decoded_at_once = 1 if acceleration is None else acceleration.decoded_at_once
        """Frames that the VAE decodes together; it counts when the decoder is recorded."""
        self.windows_at_once = WINDOWS_AT_ONCE
        """May be changed between calls: see `WINDOWS_AT_ONCE`."""
        if acceleration is not None:
            self._accelerate(networks, acceleration)

    def _accelerate(self, networks: Mapping[str, nn.Module], acceleration: Acceleration) -> None:
        for name, network in networks.items():
            acceleration.merge(name, network)
        self._decoder = decoder = acceleration.decoder(self.vae)
        function = acceleration.function
        self._extract_pose = function("the motion extractor", self._run_extractor)
        self._encode_motion = function("the motion encoder", self.motion_encoder)
        self._follow = function("the driver's motion", self._run_follower, constants=(2,))
        self._guide = function("the pose guider", self._run_guider)
        self._denoise = function("the denoising UNet", self.denoising_unet, constants=(1, 4), keeps=False)
        self._decode = function("the VAE's decoder", self._run_decoder, keeps=False)
        acceleration.park({**networks, "decoder": decoder})

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "personalive",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        attention: AttentionName = "auto",
        accelerate: AccelerationName = DEFAULT_ACCELERATION,
        low_memory: bool = False,
        tiny_vae: str | Path | None = None,
        quantize: QuantizeName = "none",
    ) -> "PersonaLive":
        """Load a model, downloading the published weights if they are not in the cache.

        Args:
            source: "personalive" (published weights), "demo" (in this package's repository), or a folder.
            device: default: the GPU if there is one.
            dtype: default: fp16 on a GPU; on a CPU fp32, with a decoder in bf16 where that is faster.
            attention: "auto" measures which implementation is fastest; "sdpa" leaves xformers out, "xformers" wants it.
            accelerate: "none", "graphs", "compile" or "max": see `acceleration.ACCELERATIONS`.
            low_memory: keep the reference UNet in the host's memory while it is idle.
            tiny_vae: a tiny decoder (TAESD) to decode with: a folder or safetensors file of diffusers' AutoencoderTiny.
                Faster, and less exact.
            quantize: "fp8": the denoising UNet's feed-forwards with 8 bits. Faster, and less exact.

        Raises:
            InputError: an unknown attention, acceleration or quantisation, or a device that can not do it.
            WeightsError: a file is missing, damaged, unsafe or does not fit.
        """
        models.import_ahead()
        rounded_decoder = dtype is None
        device, dtype = _defaults(device, dtype)
        acceleration = Acceleration(device, dtype, accelerate, attention, low_memory, quantize, rounded_decoder)
        found = weights.resolve(source, dtype=dtype)
        tiny = None
        if tiny_vae is not None:  # before the large files, as it may be refused
            tiny = weights.load_tiny_decoder(Path(tiny_vae), found.config, dtype=dtype, device=device)
        networks = {}
        for name in models.NETWORKS:
            with torch.device("meta"):
                networks[name] = models.build_network(name, found.config)
            place = torch.device("cpu") if name in acceleration.idle_networks else device
            weights.load_into(found, name, networks[name], dtype=dtype, device=place)
        if tiny is not None:
            replace_decoder(networks["vae"], tiny)
        return cls(found.config, networks, dtype, acceleration)

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "PersonaLive":
        """A model with the weights that its networks are constructed with: for training and measuring."""
        device, dtype = _defaults(device, dtype)
        with device:
            networks = {name: models.build_network(name, config) for name in models.NETWORKS}
        return cls(config, {name: models.cast(network, dtype) for name, network in networks.items()}, dtype)

    def stream(self, **options: Any) -> Stream:
        """A new animation; options as in `Stream`."""
        return Stream(self, **options)

    def advance(
        self, streams: Sequence[Stream], driving: Sequence[DrivingFrames], *, stretch: bool = False
    ) -> list[npt.NDArray[np.uint8]]:
        """Push frames into several streams of this model at once; see `advance.advance`."""
        return advance(streams, driving, stretch=stretch)

    def _take(self, tensor: Tensor) -> Tensor:
        return upload(tensor, self.device).to(self.dtype)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [-1, 1] → scaled latents [n, c, h, w]: the mean, nothing is drawn."""
        mean: Tensor = self.vae.encode(self._take(pixels)).latent_dist.mean
        return mean * self.config.vae.scaling_factor

    def embed_image(self, pixels: Tensor) -> Tensor:
        """CLIP-normalised images [n, 3, s, s] → image embedding [n, 1, e]."""
        embeds: Tensor = self.image_encoder(self._take(pixels)).image_embeds
        return embeds[:, None]

    def extract_pose(self, pixels: Tensor) -> HeadPose:
        """Images [n, 3, s, s] in [0, 1] → head poses, fp32."""
        return self._extract_pose(upload(pixels, self.device).float())

    def encode_motion(self, faces: Tensor) -> Tensor:
        """Face crops [n, 3, s, s] in [-1, 1] → motion tokens [n, tokens, width]."""
        return self._encode_motion(self._take(faces))

    def follow(self, images: Tensor, faces: Tensor, sources: Sequence[Source]) -> list[tuple[Tensor, Tensor]]:
        """Driving frames as the references of b streams take them over.

        Args:
            images: as for `extract_pose`, [b·n, 3, s, s], stream by stream.
            faces: as for `encode_motion`, [b·n, 3, s, s].
            sources: one of each stream.

        Returns:
            For each stream keypoints, fp32 [n, 21, 3], and motion tokens [n, tokens, width].
        """
        return self._follow(images, faces, tuple(sources))

    def guide(self, keypoints: Tensor, width: int, height: int) -> Tensor:
        """Keypoints fp32 [n, 21, 3] → pose features [n, c₀, h, w] of their rasters in that many pixels."""
        # Always of a chunk: the 16 frames of a first call would need a recording, and memory, of their own.
        return joined([self._guide(chunk, width, height) for chunk in keypoints.split(WINDOW)])

    def reference_features(self, latents: Tensor, embedding: Tensor) -> ReferenceFeatures:
        """Clean latents [n, c, h, w] and image embedding [n, 1, e] → what the denoising UNet attends to."""
        banks = self.reference_unet(self._take(latents), embedding)
        return self.denoising_unet.project_reference(banks, embedding)

    def embed_time(self, timesteps: Sequence[int]) -> TimeFeatures:
        """Timesteps of a window's frames → their features, to be kept for every call with these timesteps."""
        return self.denoising_unet.embed_time(torch.tensor(timesteps, device=self.device))

    def denoise(
        self,
        latents: Tensor,
        time: TimeFeatures,
        motion: Tensor,
        pose: Tensor,
        references: Sequence[ReferenceFeatures],
    ) -> Tensor:
        """One prediction for the windows of one or more streams; shapes as in `DenoisingUNet`."""
        return self._denoise(self._take(latents), time, motion, pose, references)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [n, c, h, w] → images [n, 3, H, W] in [0, 1], fp32."""
        return self.decode_pixels(latents)[0]

    def decode_pixels(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled latents [n, c, h, w] → images [n, 3, H, W] in [0, 1], fp32, and as uint8 [n, H, W, 3]."""
        parts = [self._decode(window) for window in self._take(latents).split(WINDOW)]
        return joined([images for images, _ in parts]), joined([pixels for _, pixels in parts])

    def prepare_decoder(self, latents: Tensor) -> None:
        """Record the decoder for latents of this size [1, c, h, w], if it is to be recorded and is not yet.

        Its memory is in the largest pieces, within which networks that are recorded later find room for theirs.
        """
        if isinstance(self._decode, GraphFunction):
            self._decode.prepare(self._take(latents).repeat(WINDOW, 1, 1, 1))

    def _run_extractor(self, pixels: Tensor) -> HeadPose:
        return head_pose(self.motion_extractor(pixels))

    def _run_follower(self, images: Tensor, faces: Tensor, sources: Sequence[Source]) -> list[tuple[Tensor, Tensor]]:
        poses = self._run_extractor(images.float())
        count = len(images) // len(sources)
        tokens = self.motion_encoder(faces.to(self.dtype)).split(count)
        result = []
        for index, (reference, first, motion, strength) in enumerate(sources):
            pose = poses[index * count : (index + 1) * count]
            mixed = torch.lerp(motion.expand_as(tokens[index]), tokens[index], strength.to(motion.dtype))
            result.append((project(retarget(reference, pose, first, strength)), mixed))
        return result

    def _run_guider(self, keypoints: Tensor, width: int, height: int) -> Tensor:
        features: Tensor = self.pose_guider(draw(keypoints, width, height).to(self.dtype))
        return features

    def _run_decoder(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        latents = latents * (1 / self.config.vae.scaling_factor)
        decoded = joined([self._decoder(part) for part in latents.split(self.decoded_at_once)])
        images = (decoded.float() / 2 + 0.5).clamp(0, 1)
        return images, (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _defaults(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return device, dtype or (torch.float16 if device.type == "cuda" else torch.float32)
