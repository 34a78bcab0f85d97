"""How the networks run on a device: merged layers, kernels, attention, CUDA graphs, compilation, memory.

The rest of the engine is plain PyTorch and knows none of it. Whatever does not work on a machine is left out, with one
line in the log: the result is the same, only slower.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from personalive.accel.autotune import Measured
from personalive.accel.cuda_graphs import GraphFunction, GraphMemory
from personalive.accel.fuse.encoders import fuse_encoder
from personalive.accel.fuse.float8 import to_float8
from personalive.accel.fuse.images import hand_on_biases, way_up
from personalive.accel.fuse.unet import BLOCKS, FusedSpatialTransformer, fuse
from personalive.accel.fuse.vae import FusedDecoder
from personalive.accel.offload import HostMemory, pack
from personalive.accel.ops import onednn
from personalive.accel.ops.attention import AttentionName, MeasuredAttention
from personalive.accel.ops.reference import Operations, linear_add
from personalive.config import FRAMES
from personalive.errors import InputError, first_line
from personalive.models.tiny_vae import TinyDecoder
from personalive.models.unet import ReferenceUNet
from personalive.types import AccelerationName as AccelerationName
from personalive.types import QuantizeName as QuantizeName

QUANTIZE_NAMES: tuple[QuantizeName, ...] = get_args(QuantizeName)
"""fp8: the denoising UNet's feed-forwards, see `models.float8`."""
FLOAT8_CAPABILITY = (8, 9)
"""The compute capability from which GPUs multiply fp8: RTX 40, L4, H100 and later."""
ACCELERATIONS: tuple[AccelerationName, ...] = get_args(AccelerationName)
"""none: merged layers, kernel by kernel; graphs: CUDA graphs; compile: PyTorch's compiler too; max: it also searches
for the fastest kernels. The first two start in seconds, the last two in minutes the first time."""
DEFAULT_ACCELERATION: AccelerationName = "graphs"

F = TypeVar("F", bound=Callable[..., Any])
_log = logging.getLogger(__name__)


class Acceleration:
    """The choices for one model on one device."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        name: AccelerationName = DEFAULT_ACCELERATION,
        attention: AttentionName = "auto",
        low_memory: bool = False,
        quantize: QuantizeName = "none",
        rounded_decoder: bool = False,
    ) -> None:
        """Choose.

        Args:
            low_memory: keep the reference UNet in the host's memory while it is idle.
            quantize: "fp8" for fewer bits than the dtype has.
            rounded_decoder: decode in bf16 on CPUs that multiply it twice as fast, unless `name` is "none". Pictures
                change by 0.2 of 255 on average.

        Raises:
            InputError: an unknown acceleration, attention or quantisation, or one that this device can not do.
        """
        if name not in ACCELERATIONS:
            raise InputError(f"accelerate is {name!r}: choose one of {', '.join(ACCELERATIONS)}")
        check_quantize(quantize, device, dtype, name)
        self.quantize = quantize
        on_gpu = device.type == "cuda"
        self.device, self.dtype, self.name = device, dtype, name
        self.attention = MeasuredAttention(attention)
        self.low_memory = low_memory and on_gpu
        self.compiles = on_gpu and name in ("compile", "max")
        self.operations = Operations()
        if on_gpu:
            if self.compiles:  # the compiler makes kernels of its own from the plain operations
                self.operations = Operations(attention=torch.compiler.disable(self.attention))
            else:
                self.operations = self._kernels()
        elif onednn.works(device, dtype):
            self.operations = onednn.OPERATIONS
        rounds = rounded_decoder and name != "none" and self.operations is onednn.OPERATIONS
        self._decoder_dtype = torch.bfloat16 if rounds and onednn.multiplies_bf16() else dtype
        self._memory = GraphMemory(device) if on_gpu and name != "none" else None
        if on_gpu and name == "max":
            torch.backends.cudnn.benchmark = True

    def merge(self, name: str, network: nn.Module) -> None:
        """Replace layers of a network by merged ones, in place.

        Its state dict loses the published names: load weights before.
        """
        with torch.no_grad():
            cast(Any, network).to(memory_format=torch.channels_last)
            if name in ("denoising_unet", "reference_unet"):
                fuse(network, self.operations, FRAMES)
                if self.device.type == "cuda":
                    hand_on_biases(way_up(network))
                if name == "denoising_unet" and self.quantize == "fp8":
                    to_float8(network, self.operations)
            elif name in ("motion_encoder", "motion_extractor"):
                fuse_encoder(network, self.operations)
            if self.operations is onednn.OPERATIONS:
                onednn.replace_layers(network)
        if self.compiles and name == "denoising_unet":
            self._compile(network)
        self._tidy()

    def decoder(self, vae: Any) -> nn.Module:
        """The decoder of diffusers' AutoencoderKL, from latents to images, in merged form if it is not a tiny one."""
        if isinstance(vae.decoder, TinyDecoder):
            return vae.decoder
        with torch.no_grad():
            decoder = FusedDecoder(vae, self.operations)
            if self.device.type == "cuda":
                hand_on_biases([*decoder.layers])
            if self.operations is onednn.OPERATIONS:
                onednn.replace_layers(decoder)
                decoder.to(self._decoder_dtype)
        if self.compiles:
            self._compile(decoder)
        self._tidy()
        return decoder

    @property
    def idle_networks(self) -> tuple[str, ...]:
        """Names of the networks that are to be loaded to the host, as `park` keeps them there."""
        if self.device.type != "cuda":
            return ()
        return ("image_encoder", "reference_unet") if self.low_memory else ("image_encoder",)

    @property
    def decoded_at_once(self) -> int:
        """Frames that the VAE takes together: 2 on a GPU, where the UNet's recordings need as much memory as they do.

        One at a time stays in a CPU's cache.
        """
        return 2 if self.device.type == "cuda" else 1

    def park(self, networks: Mapping[str, nn.Module]) -> None:
        """Keep what calls do not need in the host's memory while it is idle, and the rest close together.

        What only takes a portrait in always goes. The reference UNet, which is also needed for keyframes, does in low
        memory: to bring it takes about as long as to run it.
        """
        if self.device.type != "cuda":
            return
        parked = {"image_encoder": networks["image_encoder"], "vae": cast(Any, networks["vae"]).encoder}
        units = {name: [network] for name, network in parked.items()}
        if self.low_memory:
            unet = cast(ReferenceUNet, networks["reference_unet"])
            parked["reference_unet"], units["reference_unet"] = unet, list[nn.Module](unet.stages())
        for name, network in parked.items():
            HostMemory(network, units[name], self.device)
        pack(list(networks.values()), self.device)

    def function(self, name: str, function: F, constants: Sequence[int] = (), *, keeps: bool = True) -> F:
        """A function of tensors as it is to be called: recorded as CUDA graphs, or as it is.

        Args:
            name: for the log.
            constants: places of arguments whose tensors never change once they are made.
            keeps: whether its first call may make what it keeps for good.
        """
        memory = self._memory
        return function if memory is None else cast(F, GraphFunction(name, function, memory, constants, keeps=keeps))

    def _kernels(self) -> Operations:
        plain = Operations(attention=self.attention)
        if self.dtype not in (torch.float16, torch.bfloat16):
            return plain  # the kernels are for what half precision makes slow
        try:
            from personalive.accel.ops import triton as kernels
            from personalive.accel.ops.triton import trial

            operations: Any = {name: getattr(kernels, name) for name in kernels.__all__}
            fast = Operations(**operations, **_products(), attention=self.attention)
            trial.run(fast, self.device, self.dtype, float8=self.quantize == "fp8")
        except Exception as error:  # no Triton, no C compiler, no such GPU: it fails in many ways
            _log.warning("the GPU kernels do not work here, PyTorch's take their place: %s", first_line(error))
            return plain
        return fast

    def _compile(self, network: nn.Module) -> None:
        """Compile the blocks that repeat, each for itself: the whole network would take minutes."""
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 64)
        mode = "max-autotune-no-cudagraphs" if self.name == "max" else "default"
        for block in network.modules():
            if isinstance(block, BLOCKS):
                method = "attend" if isinstance(block, FusedSpatialTransformer) else "forward"
                setattr(block, method, Compiled(type(block).__name__, getattr(block, method), mode))

    def _tidy(self) -> None:
        """Give back what weights that have been replaced leave in PyTorch's cache, so that other sizes can have it."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Compiled:
    """A function that PyTorch's compiler has made kernels for; the function itself where that fails."""

    def __init__(self, name: str, function: Callable[..., Any], mode: str) -> None:
        self.name, self.function = name, function
        self._run: Callable[..., Any] = torch.compile(function, dynamic=False, mode=mode)

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._run(*arguments)
        except Exception as error:  # the compiler and what it calls fail in many ways
            if self._run is self.function:
                raise
            _log.warning("%s is not compiled: %s", self.name, first_line(error))
            self._run = self.function
            return self.function(*arguments)


def _products() -> dict[str, Any]:
    """Products and what follows them: one kernel for both, or PyTorch's faster product and another; it is measured."""
    from personalive.accel.ops.triton import geglu, products

    def measured(name: str, plain: Callable[..., Tensor], kernel: Callable[..., Tensor], tiles: Any) -> Measured:
        one = {f"one kernel, {key}": functools.partial(kernel, tile=tile) for key, tile in tiles.items()}
        return Measured(name, {"two kernels": plain, **one})

    def gated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return geglu(nn.functional.linear(x, weight, bias))

    return {
        "gated_linear": measured("a feed-forward's gate", gated, products.gated_linear, products.TILES),
        "linear_add": measured("a transformer's end", linear_add, products.linear_add, products.SUM_TILES),
    }


def check_quantize(quantize: str, device: torch.device, dtype: torch.dtype, name: AccelerationName) -> None:
    """Refuse a quantisation that does not exist or that can not run as asked.

    Raises:
        InputError: it says what is needed.
    """
    if quantize not in QUANTIZE_NAMES:
        raise InputError(f"quantize is {quantize!r}: choose one of {', '.join(QUANTIZE_NAMES)}")
    if quantize == "none":
        return
    needed = ".".join(map(str, FLOAT8_CAPABILITY))
    if device.type != "cuda":
        raise InputError(f"quantize fp8 needs an NVIDIA GPU of compute capability {needed} or more, not {device}")
    capability = torch.cuda.get_device_capability(device)
    if capability < FLOAT8_CAPABILITY:
        raise InputError(
            f"quantize fp8 needs a GPU of compute capability {needed} or more (RTX 40, L4, H100 and later), "
            f"{torch.cuda.get_device_name(device)} has {'.'.join(map(str, capability))}: leave it out"
        )
    if dtype not in (torch.float16, torch.bfloat16) or name not in ("none", "graphs"):
        raise InputError(f"quantize fp8 goes with fp16 or bf16 and accelerate none or graphs, not {dtype} and {name}")
