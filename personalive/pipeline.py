"""The façade: a loaded model, from which animations are started."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from personalive import models, weights
from personalive.choices import check_together, of_accel
from personalive.config import DEMO, ModelConfig
from personalive.engine.advance import advance
from personalive.engine.networks import Networks, PlainNetworks
from personalive.engine.preprocess import Preprocessor
from personalive.engine.state import Driving
from personalive.engine.stream import Stream
from personalive.errors import InputError, check_choice
from personalive.media.photograph import is_photograph
from personalive.models.fingerprint import fingerprint
from personalive.models.vae import VAE
from personalive.types import AccelerationName, AccumulateName, AttentionName, Box, QuantizeName, RGBArray

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from personalive.accel.accelerator import Accelerator

DRAWN_ONLY = (
    "the portrait is a photograph, but the demo model has only learnt drawn faces: what comes out will look drawn, and "
    "hardly like this person. Photographs need the published weights (model personalive), on a GPU with 8 GB of memory "
    "or more"
)
SLOW_FP16 = (
    "dtype fp16 is slow on most CPUs, which have no instructions for it: leave dtype out, which is fp32 there "
    "with bf16 where that is faster, or choose fp32"
)


class PersonaLive:
    """A loaded model, shared and read-only: any number of streams may use it, one call at a time."""

    def __init__(self, networks: Networks, motion_fingerprint: tuple[float, ...] = ()) -> None:
        """Take networks, and what `models.fingerprint` says of those that read motion."""
        self.networks, self.motion_fingerprint = networks, motion_fingerprint

    @property
    def config(self) -> ModelConfig:
        """Sizes of the networks, and defaults."""
        return self.networks.config

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return self.networks.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which they compute."""
        return self.networks.dtype

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "personalive",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        attention: AttentionName = "auto",
        accelerate: AccelerationName = "graphs",
        low_memory: bool = False,
        tiny_vae: str | Path | None = None,
        quantize: QuantizeName = "none",
        accumulate: AccumulateName = "fp32",
        onnx: str | Path | None = None,
    ) -> "PersonaLive":
        """Load a model, downloading the published weights if they are not in the cache.

        Args:
            source: "personalive" (published weights), "demo" (in this package's repository), or a folder.
            device: default: the GPU if there is one.
            dtype: default: fp16 on a GPU; on a CPU fp32, with the decoder, and in OpenVINO the UNet, in bf16 where that
                is faster.
            attention: on a GPU, "auto" measures which implementation is fastest; "sdpa" takes PyTorch's alone,
                "xformers" takes it wherever it is faster, and warns where it is missing.
            accelerate: "none": merged layers, kernel by kernel; "graphs": CUDA graphs of them; "onnx": ONNX files by a
                runtime for these (extra [onnx]; [openvino] is faster on a CPU), in fp32 on a CPU.
            low_memory: keep the reference UNet in the host's memory while it is idle.
            tiny_vae: a tiny decoder (TAESD) to decode with: a folder or safetensors file of diffusers' AutoencoderTiny.
                Faster, and less exact.
            quantize: "fp8": convolutions and large linear layers with 8 bits. Faster, and less exact.
            accumulate: "fp16": sums of products in fp16, wherever that is faster, which it is on GeForce GPUs; less
                exact. For fp16 only.
            onnx: with "onnx", a folder that `personalive export` wrote; default: in the cache, written the first time.

        Raises:
            MissingExtraError: the extra [onnx] is not installed, but asked for.
            InputError: an unknown attention, acceleration, quantisation or accumulation, or a device that cannot do it.
            WeightsError: a file is missing, damaged, unsafe or does not fit.
            OutputError: the cache cannot hold the ONNX files.
        """
        check_choice("accelerate", accelerate, get_args(AccelerationName))
        rounded = dtype is None
        choices = {"attention": attention, "low_memory": low_memory, "quantize": quantize, "accumulate": accumulate}
        device, dtype = _defaults(device, dtype)
        check_together(accelerate, onnx=onnx is not None, tiny_vae=tiny_vae is not None, **choices)
        if accelerate == "onnx":
            from personalive.onnx.networks import open_networks

            folder, found = None if onnx is None else Path(onnx), weights.resolve(source)
            return cls(*open_networks(found, folder, device, dtype, rounded=rounded))
        accelerator = _accelerator(device, dtype, name=accelerate, rounded_decoder=rounded, **choices)
        found = weights.resolve(source, dtype=dtype)
        tiny = None
        if tiny_vae is not None:  # before the large files, as this may be refused
            tiny = weights.load_tiny_decoder(Path(tiny_vae), found.config, dtype=dtype, device=device)
        if accelerator is not None:
            accelerator.begin()
        modules: dict[str, nn.Module] = {}
        begin = time.monotonic()
        for name in models.NETWORKS:
            with torch.device("meta"):
                modules[name] = models.build_network(name, found.config)
            idle = accelerator is not None and name in accelerator.idle_networks
            weights.load_into(found, name, modules[name], dtype=dtype, device=torch.device("cpu") if idle else device)
        logger.info("loaded %d networks in %.1f s", len(modules), time.monotonic() - begin)
        if tiny is not None:
            vae = modules["vae"]
            assert isinstance(vae, VAE)
            vae.replace_decoder(tiny)
        return cls.from_modules(found.config, modules, dtype, accelerator)

    @classmethod
    def from_modules(
        cls,
        config: ModelConfig,
        modules: dict[str, nn.Module],
        dtype: torch.dtype,
        accelerator: "Accelerator | None" = None,
    ) -> "PersonaLive":
        """A model from complete networks, on one device and in eval mode, by the names of `models.NETWORKS`.

        Args:
            accelerator: merges their layers, which consumes `modules`; without one, they run as they are.
        """
        found = fingerprint([modules["motion_encoder"], modules["motion_extractor"]])
        if accelerator is None:
            return cls(PlainNetworks(config, modules, dtype), found)
        return cls(accelerator.accelerate(config, modules), found)

    def stream(self, **options: Any) -> Stream:
        """A new animation; options as in `Stream`."""
        return Stream(self.networks, **options)

    def preprocessor(self, width: int | None = None, height: int | None = None) -> Preprocessor:
        """What prepares pictures for streams of that size; default: the model's."""
        size = self.config.size
        return Preprocessor(self.config, width or size, height or size, self.networks.stage)

    def unsuited(self, image: RGBArray, face: Box | None) -> str:
        """Why this model will not do well with a portrait, and what will; empty if nothing is known against it.

        Args:
            image: the portrait, cropped around the face: uint8 [h, w, 3].
            face: the face in it; None: it was not searched for.
        """
        return DRAWN_ONLY if self.config.name == DEMO.name and is_photograph(image, face) else ""

    def advance(
        self, streams: Sequence[Stream], driving: Sequence[Driving], *, stretch: bool = False
    ) -> list[RGBArray]:
        """Push frames into several streams of this model at once; see `personalive.engine.advance.advance`."""
        return advance(streams, driving, stretch=stretch)


def _accelerator(device: torch.device, dtype: torch.dtype, **choices: Any) -> "Accelerator | None":
    """What runs the networks faster; None if that part of the package is missing."""
    try:
        from personalive.accel.accelerator import Accelerator
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("personalive.accel"):
            raise
        if needing := of_accel(choices):
            name = needing[0]
            raise InputError(f"{name} {choices[name]} needs personalive.accel, which is not here") from error
        return None
    return Accelerator(device, dtype, **choices)


def _defaults(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and dtype == torch.float16:
        logger.warning("%s", SLOW_FP16)
    return device, dtype or default_dtype(device)


def default_dtype(device: torch.device) -> torch.dtype:
    """What a model computes in if nothing is said."""
    return torch.float16 if device.type == "cuda" else torch.float32
