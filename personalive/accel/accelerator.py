"""Networks that run faster on a device: merged layers, own kernels, CUDA graphs, and weights where they are needed.

The engine and the networks know nothing of it. `Accelerator` is the choices for a device, made before weights are read;
`AcceleratedNetworks` is what it makes of a model's networks.
"""

import functools
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor, nn

from personalive.accel import libraries
from personalive.accel.cuda_graphs import CapturedFunction, Function, GraphMemory
from personalive.accel.findings import Findings, findings_for
from personalive.accel.fuse.encoders import fuse_encoder
from personalive.accel.fuse.float8 import decoder_to_float8, to_float8
from personalive.accel.fuse.images import fold_upsample_biases, fuse_group_norms
from personalive.accel.fuse.linears import replace_linears
from personalive.accel.fuse.onednn import replace_layers
from personalive.accel.fuse.unet import (
    FusedDenoisingUNet,
    FusedReferenceUNet,
    ProjectedReference,
    fold_decoder_path,
)
from personalive.accel.fuse.vae import FusedDecoder
from personalive.accel.kernels import choose_operations, with_half_sums
from personalive.accel.offload import HostMemory, pack
from personalive.accel.ops import onednn
from personalive.accel.ops.attention import autotuned_attention
from personalive.accel.ops.reference import Operations
from personalive.accel.transfer import HostCopy, cat, pin, upload
from personalive.choices import FLOAT8_CAPABILITY, check_device
from personalive.config import CHUNK, WINDOW, ModelConfig
from personalive.engine.motion import HeadPose, head_pose
from personalive.engine.raster import draw
from personalive.errors import InputError, check_choice
from personalive.models.tiny_vae import TinyDecoder
from personalive.types import AcceleratorName, AccumulateName, AttentionName, QuantizeName
from personalive.user_cache import cache_folder

PINNED_FRAMES = 64
"""The most frames of one preparation that get pinned memory: a system has little of it."""

P = ParamSpec("P")
R = TypeVar("R")


class Accelerator:
    """The choices for one model on one device."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        name: AcceleratorName = "graphs",
        attention: AttentionName = "auto",
        low_memory: bool = False,
        quantize: QuantizeName = "none",
        accumulate: AccumulateName = "fp32",
        rounded_decoder: bool = False,
    ) -> None:
        """Choose.

        Args:
            name: "none": merged layers, kernel by kernel; "graphs": CUDA graphs of them, on a GPU.
            low_memory: keep the reference UNet in the host's memory while it is idle.
            quantize: "fp8": convolutions and large linear layers of the denoising UNet and the decoder with 8 bits.
            accumulate: "fp16": sums of convolutions and linear layers of the UNets and the decoder in fp16, wherever
                that is faster.
            rounded_decoder: decode in bf16 on CPUs that multiply it twice as fast, unless `name` is "none". Pictures
                change by 0.2 of 255 on average.

        Raises:
            InputError: an unknown acceleration, attention, quantisation or accumulation, or one that this device cannot
                do.
        """
        check_choice("accelerate", name, get_args(AcceleratorName))
        check_precision(quantize, accumulate, device, dtype)
        self.device, self.dtype = device, dtype
        self.on_gpu = device.type == "cuda"
        self.float8, self.half_sums = quantize == "fp8", accumulate == "fp16"
        self.low_memory = low_memory and self.on_gpu
        self._findings = findings_for(device, cache_folder("kernels")) if self.on_gpu else Findings(None)
        self.attention = autotuned_attention(attention, self._findings)
        self.own_attention = attention == "auto"
        self._choosing: Future[tuple[Operations, Operations]] | None = None
        self.on_onednn = not self.on_gpu and self.operations is onednn.OPERATIONS
        rounds = rounded_decoder and name != "none" and self.on_onednn and onednn.multiplies_bf16()
        self.decoder_dtype = torch.bfloat16 if rounds else dtype
        self.graphs = GraphMemory(device) if self.on_gpu and name == "graphs" else None

    def begin(self) -> "Future[tuple[Operations, Operations]]":
        """Choose operations, the first time. On a GPU, kernels are tried and libraries loaded in threads of their own.

        Best called before weights are read, and after what may still be refused: a process does not end before its
        threads, and the first time these compile kernels.
        """
        if self._choosing is None and self.on_gpu:
            threads = ThreadPoolExecutor(2, thread_name_prefix="kernels")
            self._choosing = threads.submit(self._choose)
            threads.submit(libraries.load, self.device, self.dtype)
            threads.shutdown(wait=False)
        elif self._choosing is None:
            self._choosing = Future()
            self._choosing.set_result(self._choose())
        return self._choosing

    @property
    def operations(self) -> Operations:
        """The implementation of each operation, once it is known."""
        return self.begin().result()[0]

    @property
    def image_operations(self) -> Operations:
        """The same for the UNets and the autoencoder, whose sums may be in fp16."""
        return self.begin().result()[1]

    def _choose(self) -> tuple[Operations, Operations]:
        with current(self.device):
            operations = choose_operations(
                self.device,
                self.dtype,
                self.attention,
                self._findings,
                own_attention=self.own_attention,
                float8=self.float8,
                half_sums=self.half_sums,
            )
            if not self.half_sums:
                return operations, operations
            return operations, with_half_sums(operations, self.device, self._findings)

    @property
    def idle_networks(self) -> tuple[str, ...]:
        """Names of the networks to load to the host, where they stay while they are idle."""
        if not self.on_gpu:
            return ()
        return ("image_encoder", "reference_unet") if self.low_memory else ("image_encoder",)

    def accelerate(self, config: ModelConfig, modules: MutableMapping[str, nn.Module]) -> "AcceleratedNetworks":
        """The networks in merged form. `modules` must have their weights already, and are consumed."""
        return AcceleratedNetworks(config, modules, self)

    def captured(self, name: str, function: Function, *, allocates_persistent: bool = True) -> Function:
        """The function to call: captured as CUDA graphs, or unchanged; see `CapturedFunction`."""
        if self.graphs is not None:
            return CapturedFunction(name, function, self.graphs, allocates_persistent=allocates_persistent)

        def run(*tensors: Tensor, constants: Sequence[Tensor] = (), **static: Any) -> tuple[Tensor, ...]:
            return function(*tensors, *constants, **static)

        return run


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one of this thread: Triton launches on that, and pinned memory belongs to it."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def on_its_device(
    method: Callable[Concatenate["AcceleratedNetworks", P], R],
) -> Callable[Concatenate["AcceleratedNetworks", P], R]:
    """Run a method with its networks' device as the current one, whatever thread it is called in."""

    @functools.wraps(method)
    def run(networks: "AcceleratedNetworks", /, *arguments: P.args, **named: P.kwargs) -> R:
        with current(networks.device):
            return method(networks, *arguments, **named)

    return run


class AcceleratedNetworks:
    """See `Networks`: the same functions with the same results, up to rounding."""

    def __init__(self, config: ModelConfig, modules: MutableMapping[str, nn.Module], accelerator: Accelerator) -> None:
        """Merge layers of the networks, which are consumed, and move their weights to where they belong."""
        self.config, self.device, self.dtype = config, accelerator.device, accelerator.dtype
        self._accelerator = accelerator
        with torch.no_grad(), current(self.device):
            self.modules = {name: self._merged(name, modules.pop(name)) for name in list(modules)}
            self.modules["decoder"] = self._merged_decoder()
            self._place_weights()
        self._times: dict[tuple[int, ...], tuple[Tensor, ...]] = {}
        # One frame at a time fits a CPU's cache; for two, a GPU needs no more memory than the UNet uses anyway, and for
        # four no more than fp8 weights save.
        self.decoded_at_once = (CHUNK if accelerator.float8 else 2) if accelerator.on_gpu else 1
        self._beside = None if accelerator.graphs is None else torch.cuda.Stream(self.device)
        captured = accelerator.captured
        self._extract = captured("the motion extractor", self._run_extractor)
        self._encode = captured("the motion encoder", lambda faces: (self.modules["motion_encoder"](faces),))
        self._encode_driver = captured("the motion extractor and encoder", self._run_side_by_side)
        self._guide = captured("the pose guider", self._run_guider)
        self._denoise = captured("the denoising UNet", self._run_denoiser, allocates_persistent=False)
        self._decode = captured("the VAE's decoder", self._run_decoder, allocates_persistent=False)

    def _merged(self, name: str, network: Any) -> nn.Module:
        accelerator, operations = self._accelerator, self._accelerator.operations
        network.to(memory_format=torch.channels_last)
        if name in ("denoising_unet", "reference_unet"):
            if name == "denoising_unet":
                network = FusedDenoisingUNet(network, accelerator.image_operations, WINDOW)
            else:
                network = FusedReferenceUNet(network, accelerator.image_operations)
            if accelerator.on_gpu:
                fold_decoder_path(network)
            if name == "denoising_unet" and accelerator.float8:
                to_float8(network)
            if accelerator.half_sums:
                replace_linears(network, accelerator.image_operations.linear)
        elif name in ("motion_encoder", "motion_extractor"):
            fuse_encoder(network, operations)
        elif name == "vae":
            fuse_group_norms(network.encoder, operations)
        elif name == "image_encoder":
            for layer in network.vision_model.encoder.layers:
                layer.self_attn.attend = operations.attention
        if accelerator.on_onednn:
            replace_layers(network)
        self._tidy()
        merged: nn.Module = network
        return merged

    def _merged_decoder(self) -> nn.Module:
        """What decodes latents, in merged form if it is not a tiny one; the VAE keeps its encoder."""
        accelerator, vae = self._accelerator, self.modules["vae"]
        decoder = vae.decoder
        assert isinstance(decoder, nn.Module)
        if not isinstance(decoder, TinyDecoder):
            decoder = FusedDecoder(vae, accelerator.image_operations)
            if accelerator.on_gpu:
                fold_upsample_biases([*decoder.layers])
            if accelerator.float8:
                decoder_to_float8(decoder)
            if accelerator.half_sums:
                replace_linears(decoder, accelerator.image_operations.linear)
            if accelerator.on_onednn:
                replace_layers(decoder)
                decoder.to(accelerator.decoder_dtype)
        vae.decoder = vae.post_quant_conv = nn.Identity()
        self._tidy()
        return decoder

    def _place_weights(self) -> None:
        """Keep what steps do not need in the host's memory while it is idle, and pack the rest.

        What only a portrait needs always goes there. The reference UNet, which keyframes need too, does only in low
        memory: loading it takes about as long as running it.
        """
        if not self._accelerator.on_gpu:
            return
        encoder = self.modules["vae"].encoder
        assert isinstance(encoder, nn.Module)
        units = [(module, [module]) for module in (self.modules["image_encoder"], encoder)]
        if self._accelerator.low_memory:
            unet: Any = self.modules["reference_unet"]
            units.append((unet, unet.parts))
        for network, parts in units:
            HostMemory(network, parts, self.device)
        pack(list(self.modules.values()), self.device)

    def _tidy(self) -> None:
        """Release what replaced weights leave in PyTorch's cache, so that tensors of other sizes can have it."""
        if self._accelerator.on_gpu:
            torch.cuda.empty_cache()

    @on_its_device
    def encode_image(self, images: Tensor) -> Tensor:
        vae: Any = self.modules["vae"]
        mean: Tensor = vae.encode(self._take(images))[0]
        return mean * self.config.vae.scaling_factor

    @on_its_device
    def embed_image(self, images: Tensor) -> Tensor:
        embedding: Tensor = self.modules["image_encoder"](self._take(images))
        return embedding

    @on_its_device
    def encode_reference(self, latents: Tensor, embedding: Tensor) -> ProjectedReference:
        # A stream starts with this. The decoder's tensors are the largest, and networks that are captured later find
        # room within their memory.
        if isinstance(self._decode, CapturedFunction):
            self._decode.prepare(self._take(latents)[:1].repeat(CHUNK, 1, 1, 1))
        unet: Any = self.modules["denoising_unet"]
        banks = self.modules["reference_unet"](self._take(latents), embedding)
        projected: ProjectedReference = unet.project_reference(banks, embedding)
        return projected

    @on_its_device
    def extract_pose(self, images: Tensor) -> HeadPose:
        return HeadPose(*self._extract(upload([images], self.device).float()))

    @on_its_device
    def encode_motion(self, faces: Tensor) -> Tensor:
        return self._encode(self._take(faces))[0]

    @on_its_device
    def encode_driver(self, images: Tensor, faces: Tensor) -> tuple[HeadPose, Tensor]:
        *pose, tokens = self._encode_driver(upload([images], self.device).float(), self._take(faces))
        return HeadPose(*pose), tokens

    @on_its_device
    def guide(self, keypoints: Tensor, width: int, height: int) -> Tensor:
        # Always one chunk: the 16 frames of a first step would need their own capture, and its memory.
        return cat([self._guide(chunk, width=width, height=height)[0] for chunk in keypoints.split(CHUNK)])

    @on_its_device
    def denoise(
        self, latents: Tensor, timesteps: tuple[int, ...], motion: Tensor, pose: Tensor, reference: Any
    ) -> Tensor:
        if timesteps not in self._times:
            unet: Any = self.modules["denoising_unet"]
            self._times[timesteps] = unet.embed_time(torch.tensor(timesteps, device=self.device))
        constants = (*self._times[timesteps], *reference.tensors)
        return self._denoise(self._take(latents), motion, pose, constants=constants)[0]

    @on_its_device
    def decode(self, latents: Tensor) -> Tensor:
        return cat([self._decode(part)[0] for part in self._take(latents).split(CHUNK)])

    @on_its_device
    def upload(self, tensors: Sequence[Tensor]) -> Tensor:
        return upload(tensors, self.device)

    @on_its_device
    def download(self, tensor: Tensor) -> HostCopy:
        return HostCopy(tensor)

    @on_its_device
    def stage(self, tensor: Tensor) -> Tensor:
        return pin([tensor]) if self._accelerator.on_gpu and len(tensor) <= PINNED_FRAMES else tensor

    def _take(self, tensor: Tensor) -> Tensor:
        return upload([tensor], self.device).to(self.dtype)

    def _run_extractor(self, images: Tensor) -> tuple[Tensor, ...]:
        pose = head_pose(self.modules["motion_extractor"](images))
        return pose.angles, pose.translation, pose.scale, pose.canonical

    def _run_side_by_side(self, images: Tensor, faces: Tensor) -> tuple[Tensor, ...]:
        """Extractor and encoder: neither fills a GPU, so in a graph they run at the same time."""
        if self._beside is None:
            return (*self._run_extractor(images), self.modules["motion_encoder"](faces))
        stream = torch.cuda.current_stream(self.device)
        self._beside.wait_stream(stream)
        with torch.cuda.stream(self._beside):
            tokens = self.modules["motion_encoder"](faces)
        pose = self._run_extractor(images)
        stream.wait_stream(self._beside)
        return (*pose, tokens)

    def _run_guider(self, keypoints: Tensor, width: int, height: int) -> tuple[Tensor, ...]:
        return (self.modules["pose_guider"](draw(keypoints, width, height).to(self.dtype)),)

    def _run_denoiser(self, latents: Tensor, motion: Tensor, pose: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
        unet: Any = self.modules["denoising_unet"]
        resnets, places = len(unet.resnets), len(unet.attentions)
        reference = ProjectedReference.of(constants[resnets:], places)
        return (unet(latents, constants[:resnets], motion, pose, reference),)

    def _run_decoder(self, latents: Tensor) -> tuple[Tensor, ...]:
        latents = latents * (1 / self.config.vae.scaling_factor)
        images = cat([self.modules["decoder"](part) for part in latents.split(self.decoded_at_once)])
        return ((images.float() / 2 + 0.5).clamp(0, 1),)


def check_precision(quantize: str, accumulate: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a quantisation or an accumulation that does not exist, or that cannot run as asked.

    Raises:
        InputError: the message says what is needed.
    """
    check_choice("quantize", quantize, get_args(QuantizeName))
    check_choice("accumulate", accumulate, get_args(AccumulateName))
    check_device(device.type, quantize, accumulate)
    if quantize == "fp8" and (capability := torch.cuda.get_device_capability(device)) < FLOAT8_CAPABILITY:
        raise InputError(
            f"quantize fp8 needs a GPU of compute capability {'.'.join(map(str, FLOAT8_CAPABILITY))} or more (RTX 40, "
            f"L4, H100 and later), {torch.cuda.get_device_name(device)} has {'.'.join(map(str, capability))}: leave it "
            "out"
        )
    if quantize == "fp8" and dtype not in (torch.float16, torch.bfloat16):
        raise InputError(f"quantize fp8 needs fp16 or bf16, not {dtype}")
    if accumulate == "fp16" and dtype != torch.float16:
        raise InputError(f"accumulate fp16 needs a model in fp16, not in {dtype}: leave it out, or choose fp16")
