"""What is exported: for each network a module with named inputs and outputs, and examples that it is checked with.

The autoencoder is two files. What `engine.networks.Networks` computes around a network, such as scaling latents, is
part of its file, except that keypoints are drawn before they enter the pose guider.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from personalive.config import CHUNK, WINDOW, ModelConfig
from personalive.engine import schedule
from personalive.engine.keyframes import MAX_KEYFRAMES
from personalive.engine.motion import head_pose
from personalive.engine.raster import draw
from personalive.models.denoising_unet import ReferenceFeatures
from personalive.onnx.layers import BankProjection, KeyedReference, key_transformers, pool_group_norms, replace_layers

POSE_OUTPUTS = ("angles", "translation", "scale", "canonical")
"""The fields of `HeadPose`."""

Axes = dict[int, str]
"""Names of the axes of an input or output that are free, by index."""
IMAGE_AXES: Axes = {2: "height", 3: "width"}
LATENT_AXES: Axes = {2: "latent_height", 3: "latent_width"}
FRAME_AXIS: Axes = {0: "frames"}

Load = Callable[[str], nn.Module]
"""The name of a network → it, complete, in fp32 on the CPU; the caller may change it."""


@dataclass(frozen=True)
class Example:
    """What inputs are made for: a size in pixels, and numbers of frames and keyframes."""

    width: int
    height: int
    frames: int = CHUNK
    keyframes: int = 0


FREE_EXAMPLES = (Example(128, 192, 3, 1), Example(256, 192, 1, 0), Example(192, 320, CHUNK, MAX_KEYFRAMES))
"""A file with free sizes is traced with the first, and checked with all of them."""


@dataclass(frozen=True)
class Case:
    """Inputs of a graph by name, and what plain PyTorch computes from them in fp32."""

    inputs: Mapping[str, Tensor]
    expected: tuple[Tensor, ...]


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
    """The first is what the file is traced with."""
    free: Mapping[str, Axes]
    """By input and output."""
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
        self.config, self.load, self.is_free = config, load, size is None
        self.examples: tuple[Example, ...] = FREE_EXAMPLES if size is None else (Example(*size),)
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

    def denoising_unet(self) -> Iterator[Graph]:
        """One file if sizes are free, else one for each number of keyframes."""
        unet: Any = self.load("denoising_unet")
        examples = self.examples
        if not self.is_free:
            examples = tuple(replace(examples[0], keyframes=number) for number in range(MAX_KEYFRAMES + 1))
        windows = [self._window(unet, example) for example in examples]
        expected = [unet(*inputs, features) for inputs, features in windows]
        self._projections = [BankProjection(layer) for layer in unet.spatial_transformers]
        references = [project(self._projections, features) for _, features in windows]
        key_transformers(unet)
        replace_layers(unet)
        names = ["latents", "timesteps", "motion", "pose", *reference_names(len(self._projections))]
        cases = [
            Case(dict(zip(names, (*inputs, *reference.tensors), strict=True)), (prediction,))
            for (inputs, _), reference, prediction in zip(windows, references, expected, strict=True)
        ]
        module = _Calls(unet, lambda unet, *given: (unet(*given[:4], KeyedReference.of(given[4:])),))
        if self.is_free:
            latents = dict.fromkeys(("latents", "pose", "prediction"), LATENT_AXES)
            free = latents | _token_axes(references[0])
            yield Graph("denoising_unet", "denoising_unet", module, ("prediction",), tuple(cases), free)
            return
        for example, case in zip(examples, cases, strict=True):
            name = f"denoising_unet_{example.keyframes}_keyframes"
            yield Graph(name, "denoising_unet", module, ("prediction",), (case,), {}, keyframes=example.keyframes)

    def reference_unet(self) -> Iterator[Graph]:
        """Needs the projections of the denoising UNet, which comes before."""
        unet: Any = self.load("reference_unet")
        names, cases = tuple(reference_names(len(self._projections))), []
        for example in self.examples:
            latents, embedding = self._latents(1, example), self._normal(1, 1, self.config.unet.cross_attention_dim)
            reference = _project_bank(self._projections, unet(latents, embedding), embedding)
            cases.append(Case({"latents": latents, "embedding": embedding}, reference.tensors))
        free = {"latents": LATENT_AXES, **_token_axes(reference)}
        replace_layers(unet)
        yield self._graph("reference_unet", _Reference(unet, self._projections), names, cases, free)

    def vae(self) -> Iterator[Graph]:
        """Encoder and decoder."""
        vae: Any = self.load("vae")
        scale = self.config.vae.scaling_factor

        def encode(vae: Any, images: Tensor) -> tuple[Tensor, ...]:
            return (vae.encode(images)[0] * scale,)

        def decode(vae: Any, latents: Tensor) -> tuple[Tensor, ...]:
            return ((vae.decode(latents * (1 / scale)).float() / 2 + 0.5).clamp(0, 1),)

        encoder, decoder = _Calls(vae, encode), _Calls(vae, decode)
        encoded = [_case(encoder, images=self._images(1, each.width, each.height)) for each in self.examples]
        decoded = [_case(decoder, latents=self._latents(each.frames, each)) for each in self.examples]
        replace_layers(vae)
        pool_group_norms(vae.decoder)
        free = {"images": IMAGE_AXES, "latents": LATENT_AXES}
        yield self._graph("vae_encoder", encoder, ("latents",), encoded, free, network="vae")
        free = {"images": FRAME_AXIS | IMAGE_AXES, "latents": FRAME_AXIS | LATENT_AXES}
        yield self._graph("vae_decoder", decoder, ("images",), decoded, free, network="vae")

    def image_encoder(self) -> Iterator[Graph]:
        """CLIP, which takes one image of one size."""
        side = self.config.image_encoder.image_size
        module = _Calls(self.load("image_encoder"), lambda network, images: (network(images),))
        yield self._graph(
            "image_encoder", module, ("embedding",), [_case(module, images=self._normal(1, 3, side, side))]
        )

    def motion_encoder(self) -> Iterator[Graph]:
        """Face crops → motion tokens."""
        side = self.config.motion_encoder.image_size
        module = _Calls(self.load("motion_encoder"), lambda network, faces: (network(faces),))
        cases = [_case(module, faces=self._images(each.frames, side, side)) for each in self.examples]
        replace_layers(module)
        free = dict.fromkeys(("faces", "tokens"), FRAME_AXIS)
        yield self._graph("motion_encoder", module, ("tokens",), cases, free)

    def motion_extractor(self) -> Iterator[Graph]:
        """Images → head poses."""
        side = self.config.motion_extractor.image_size

        def extract(network: Any, images: Tensor) -> tuple[Tensor, ...]:
            pose = head_pose(network(images))
            return tuple(getattr(pose, name) for name in POSE_OUTPUTS)

        module = _Calls(self.load("motion_extractor"), extract)
        cases = [_case(module, images=self._images(each.frames, side, side) / 2 + 0.5) for each in self.examples]
        free = dict.fromkeys(("images", *POSE_OUTPUTS), FRAME_AXIS)
        yield self._graph("motion_extractor", module, POSE_OUTPUTS, cases, free, stays_fp32=True)

    def pose_guider(self) -> Iterator[Graph]:
        """Drawn keypoints → pose features."""
        module = _Calls(self.load("pose_guider"), lambda network, raster: (network(raster),))
        cases = []
        for each in self.examples:
            keypoints = torch.rand((each.frames, 21, 3), generator=self.random) * 2 - 1
            cases.append(_case(module, raster=draw(keypoints, each.width, each.height)))
        free = {"raster": FRAME_AXIS | IMAGE_AXES, "pose": FRAME_AXIS | LATENT_AXES}
        yield self._graph("pose_guider", module, ("pose",), cases, free)

    def _graph(
        self,
        name: str,
        module: nn.Module,
        outputs: tuple[str, ...],
        cases: Sequence[Case],
        free: Mapping[str, Axes] | None = None,
        *,
        network: str = "",
        stays_fp32: bool = False,
    ) -> Graph:
        free = free if free is not None and self.is_free else {}
        return Graph(name, network or name, module, outputs, tuple(cases), free, stays_fp32)

    def _window(self, unet: Any, example: Example) -> tuple[tuple[Tensor, ...], ReferenceFeatures]:
        """A window's inputs and a reference with its keyframes, for a plain UNet."""
        config, latents = self.config, self._latents(WINDOW, example)
        times = torch.tensor(schedule.inner_steps(4)[0].timesteps)
        motion = self._normal(WINDOW, config.motion_encoder.tokens, config.motion_encoder.token_width)
        pose = self._normal(WINDOW, config.unet.block_channels[0], *latents.shape[2:])
        banks = tuple(
            tuple(self._normal(1, tokens, channels) for tokens, channels in _bank_shapes(unet, latents))
            for _ in range(1 + example.keyframes)
        )
        embedding = self._normal(1, 1, config.unet.cross_attention_dim)
        return (latents, times, motion, pose), ReferenceFeatures(embedding, banks)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)

    def _latents(self, n: int, example: Example) -> Tensor:
        factor = self.config.vae.factor
        return self._normal(n, self.config.unet.latent_channels, example.height // factor, example.width // factor)

    def _images(self, n: int, width: int, height: int) -> Tensor:
        """In [-1, 1]."""
        return torch.rand((n, 3, height, width), generator=self.random) * 2 - 1


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


def _token_axes(reference: KeyedReference) -> dict[str, Axes]:
    """Free axes of the keys and values of a reference: transformers of the same resolution have the same tokens."""
    numbers = [keys.shape[1] for keys in reference.keys]
    levels = list(dict.fromkeys(numbers))
    axes: list[Axes] = [{1: f"tokens{levels.index(number)}"} for number in numbers]
    return {f"{kind}{place}": each for kind in ("keys", "values") for place, each in enumerate(axes)}


def _case(module: nn.Module, **inputs: Tensor) -> Case:
    return Case(inputs, module(*inputs.values()))
