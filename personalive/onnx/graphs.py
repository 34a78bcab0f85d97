"""What is exported: for each network a module with named inputs and outputs, and examples that it is checked with.

There are eight files, as the autoencoder is two. What `engine.networks.Networks` computes around a network, such as
scaling latents, is part of its file, except that keypoints are drawn before they enter the pose guider.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from personalive.config import CHUNK, SIZE_STEP, WINDOW, ModelConfig
from personalive.engine import schedule
from personalive.engine.motion import head_pose
from personalive.engine.raster import draw
from personalive.models.denoising_unet import ReferenceFeatures
from personalive.onnx.layers import BankProjection, KeyedReference, key_transformers, replace_layers

MAX_KEYFRAMES = 3
"""Keyframes that a stream has at most."""
POSE_OUTPUTS = ("angles", "translation", "scale", "canonical")
"""The fields of `HeadPose`."""
EXAMPLE_SIZES = ((256, 320), (384, 256))
"""Widths and heights in pixels that files of free size are checked with."""

Axes = dict[int, tuple[str, int]]
"""Axes of an input that are free: by their index, a name, and the factor by which its value is multiplied."""
Load = Callable[[str], nn.Module]
"""The name of a network → it, complete, in fp32 on the CPU; the caller may change it."""


@dataclass(frozen=True)
class Case:
    """Inputs of a graph by name, and what plain PyTorch computes from them in fp32."""

    inputs: dict[str, Tensor]
    expected: tuple[Tensor, ...]
    keyframes: int = 0


@dataclass(frozen=True)
class Graph:
    """One file that is to be written."""

    name: str
    """Name of the file, without suffix."""
    network: str
    module: nn.Module
    """Takes the inputs in their order, and returns a tuple of the outputs."""
    outputs: tuple[str, ...]
    cases: tuple[Case, ...]
    """Of one shape if nothing is free. The first is what the file is made with."""
    free: Mapping[str, Axes]
    """By input."""
    stays_fp32: bool = False
    """Whether the network computes in fp32 in a model of any precision."""
    keyframes: int | None = None
    """The number of keyframes that it takes, if that is fixed."""


class _Calls(nn.Module):
    """A function of a network, as a module whose `forward` it is."""

    def __init__(self, network: Any, function: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.function(self.network, *inputs)


class _Reference(nn.Module):
    """The reference UNet with the projections of the denoising UNet that its banks go through."""

    def __init__(self, unet: Any, projections: Sequence[BankProjection]) -> None:
        super().__init__()
        self.unet, self.projections = unet, nn.ModuleList(projections)

    def forward(self, latents: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        banks = self.unet(latents, embedding)
        return _project_bank(self.projections, banks, embedding).tensors


class GraphMaker:
    """Makes the graphs of a model, one network at a time."""

    def __init__(self, config: ModelConfig, load: Load, size: tuple[int, int] | None) -> None:
        """Prepare.

        Args:
            size: the width and height that everything is fixed to; None: they are free, and so are the numbers of
                frames and keyframes.
        """
        self.config, self.load = config, load
        self.sizes = [size] if size else [*EXAMPLE_SIZES]
        self.is_free = size is None
        self.random = torch.Generator().manual_seed(0)
        self._projections: list[BankProjection] = []

    def graphs(self) -> Iterator[Graph]:
        """All of them. Each should be dropped before the next is asked for: the networks of one may be large."""
        for make in (
            self.denoising_unet,
            self.reference_unet,
            self.vae,
            self.image_encoder,
            self.motion_encoder,
            self.motion_extractor,
            self.pose_guider,
        ):
            yield from make()

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)

    def _latents(self, n: int, size: tuple[int, int]) -> Tensor:
        factor = self.config.vae.factor
        return self._normal(n, self.config.unet.latent_channels, size[1] // factor, size[0] // factor)

    def _image_axes(self, first: str | None = None, factor: int = SIZE_STEP) -> Axes:
        """Free axes of images, or of latents."""
        axes: Axes = {2: ("h", factor), 3: ("w", factor)}
        return ({0: (first, 1)} if first else {}) | axes if self.is_free else {}

    def _latent_axes(self, first: str | None = None) -> Axes:
        return self._image_axes(first, SIZE_STEP // self.config.vae.factor)

    def _frame_axis(self) -> Axes:
        return {0: ("frames", 1)} if self.is_free else {}

    def denoising_unet(self) -> Iterator[Graph]:
        unet: Any = self.load("denoising_unet")
        numbers = (0, MAX_KEYFRAMES) if self.is_free else range(MAX_KEYFRAMES + 1)
        pairs = zip(self.sizes, numbers, strict=True) if self.is_free else ((self.sizes[0], n) for n in numbers)
        plain = [(self._window(unet, size, keyframes), keyframes) for size, keyframes in pairs]
        expected = [unet(*inputs[:4], features) for (inputs, features), _ in plain]
        self._projections = [BankProjection(layer) for layer in unet.spatial_transformers]
        key_transformers(unet)
        replace_layers(unet)
        names = ["latents", "timesteps", "motion", "pose", *reference_names(len(self._projections))]
        cases = []
        for ((inputs, features), keyframes), prediction in zip(plain, expected, strict=True):
            reference = project(self._projections, features)
            named = dict(zip(names, (*inputs, *reference.tensors), strict=True))
            cases.append(Case(named, (prediction,), keyframes))
        module = _Calls(unet, lambda unet, *given: (unet(*given[:4], KeyedReference.of(given[4:])),))
        free: dict[str, Axes] = {name: self._latent_axes() for name in ("latents", "pose")}
        if self.is_free:
            levels = list(dict.fromkeys(tensor.shape[1] for tensor in reference.keys))
            for place, keys in enumerate(reference.keys):
                axes: Axes = {1: (f"tokens{levels.index(keys.shape[1])}", 1)}
                free |= {f"keys{place}": axes, f"values{place}": axes}
            yield Graph("denoising_unet", "denoising_unet", module, ("prediction",), tuple(cases), free)
            return
        for case in cases:
            name = f"denoising_unet_{case.keyframes}_keyframes"
            yield Graph(name, "denoising_unet", module, ("prediction",), (case,), free, keyframes=case.keyframes)

    def _window(self, unet: Any, size: tuple[int, int], keyframes: int) -> tuple[tuple[Tensor, ...], ReferenceFeatures]:
        """A window's inputs, and a reference with that many keyframes, for a plain UNet."""
        config = self.config
        latents = self._latents(WINDOW, size)
        times = torch.tensor(schedule.inner_steps(4)[0].timesteps)
        motion = self._normal(WINDOW, config.motion_encoder.tokens, config.motion_encoder.token_width)
        pose = self._normal(WINDOW, config.unet.block_channels[0], *latents.shape[2:])
        banks = tuple(
            tuple(self._normal(1, tokens, channels) for tokens, channels in _bank_shapes(unet, latents))
            for _ in range(1 + keyframes)
        )
        embedding = self._normal(1, 1, config.unet.cross_attention_dim)
        return (latents, times, motion, pose), ReferenceFeatures(embedding, banks)

    def reference_unet(self) -> Iterator[Graph]:
        unet: Any = self.load("reference_unet")
        cases = []
        for size in self.sizes:
            latents, embedding = self._latents(1, size), self._normal(1, 1, self.config.unet.cross_attention_dim)
            features = ReferenceFeatures(embedding, (unet(latents, embedding),))
            inputs = {"latents": latents, "embedding": embedding}
            cases.append(Case(inputs, project(self._projections, features).tensors))
        replace_layers(unet)
        names = tuple(reference_names(len(self._projections)))
        free = {"latents": self._latent_axes()}
        yield Graph("reference_unet", "reference_unet", _Reference(unet, self._projections), names, tuple(cases), free)

    def vae(self) -> Iterator[Graph]:
        vae: Any = self.load("vae")
        scale = self.config.vae.scaling_factor

        def encode(vae: Any, images: Tensor) -> tuple[Tensor, ...]:
            return (vae.encode(images)[0] * scale,)

        def decode(vae: Any, latents: Tensor) -> tuple[Tensor, ...]:
            return ((vae.decode(latents * (1 / scale)).float() / 2 + 0.5).clamp(0, 1),)

        encoded, decoded = [], []
        for size in self.sizes:
            images, latents = self._images(1, size), self._latents(self._few, size)
            encoded.append(Case({"images": images}, encode(vae, images)))
            decoded.append(Case({"latents": latents}, decode(vae, latents)))
        replace_layers(vae)
        free = {"images": self._image_axes()}
        yield Graph("vae_encoder", "vae", _Calls(vae, encode), ("latents",), tuple(encoded), free)
        free = {"latents": self._latent_axes("frames")}
        yield Graph("vae_decoder", "vae", _Calls(vae, decode), ("images",), tuple(decoded), free)

    @property
    def _few(self) -> int:
        """Frames in an example: a chunk, or another number if it is free."""
        return CHUNK - 1 if self.is_free else CHUNK

    def _images(self, n: int, size: tuple[int, int]) -> Tensor:
        """In [-1, 1]."""
        return torch.rand((n, 3, size[1], size[0]), generator=self.random) * 2 - 1

    def image_encoder(self) -> Iterator[Graph]:
        side = self.config.image_encoder.image_size
        module = _Calls(self.load("image_encoder"), lambda network, images: (network(images),))
        images = self._normal(1, 3, side, side)
        yield Graph("image_encoder", "image_encoder", module, ("embedding",), (_case(module, images=images),), {})

    def motion_encoder(self) -> Iterator[Graph]:
        side = self.config.motion_encoder.image_size
        module = _Calls(self.load("motion_encoder"), lambda network, faces: (network(faces),))
        case, free = _case(module, faces=self._images(self._few, (side, side))), {"faces": self._frame_axis()}
        replace_layers(module)
        yield Graph("motion_encoder", "motion_encoder", module, ("tokens",), (case,), free)

    def motion_extractor(self) -> Iterator[Graph]:
        side = self.config.motion_extractor.image_size

        def extract(network: Any, images: Tensor) -> tuple[Tensor, ...]:
            pose = head_pose(network(images))
            return tuple(getattr(pose, name) for name in POSE_OUTPUTS)

        module = _Calls(self.load("motion_extractor"), extract)
        images = self._images(self._few, (side, side)) / 2 + 0.5
        case, free = _case(module, images=images), {"images": self._frame_axis()}
        yield Graph("motion_extractor", "motion_extractor", module, POSE_OUTPUTS, (case,), free, stays_fp32=True)

    def pose_guider(self) -> Iterator[Graph]:
        module = _Calls(self.load("pose_guider"), lambda network, raster: (network(raster),))
        cases = []
        for width, height in self.sizes:
            keypoints = torch.rand((self._few, 21, 3), generator=self.random) * 2 - 1
            cases.append(_case(module, raster=draw(keypoints, width, height)))
        free = {"raster": self._image_axes("frames")}
        yield Graph("pose_guider", "pose_guider", module, ("pose",), tuple(cases), free)


def reference_names(places: int) -> list[str]:
    """Names of the tensors of a `KeyedReference`, in their order."""
    return [f"{kind}{place}" for kind in ("context", "keys", "values") for place in range(places)]


def project(projections: Sequence[nn.Module], features: ReferenceFeatures) -> KeyedReference:
    """What a reference with its keyframes is to the denoising UNet of a file."""
    first, *keyframes = (_project_bank(projections, bank, features.embedding) for bank in features.banks)
    for keyframe in keyframes:
        first = first.with_keyframe(keyframe)
    return first


def _project_bank(projections: Iterable[nn.Module], bank: Sequence[Tensor], embedding: Tensor) -> KeyedReference:
    parts = [projection(tokens, embedding) for projection, tokens in zip(projections, bank, strict=True)]
    return KeyedReference(*map(tuple, zip(*parts, strict=True)))


def _bank_shapes(unet: Any, latents: Tensor) -> list[tuple[int, int]]:
    """Tokens and channels of each bank of the reference UNet, for latents of that size."""
    levels = [*range(len(unet.down_blocks))]
    stages = zip(
        (*unet.down_blocks, unet.mid_block, *unet.up_blocks), (*levels, levels[-1], *levels[::-1]), strict=True
    )
    h, w = latents.shape[2:]
    return [
        ((h >> level) * (w >> level), layer.norm.num_channels) for stage, level in stages for layer in stage.attentions
    ]


def _case(module: nn.Module, **inputs: Tensor) -> Case:
    return Case(inputs, module(*inputs.values()))
