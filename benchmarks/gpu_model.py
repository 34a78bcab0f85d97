"""What the measurements on a GPU share: a model with random weights, animations, and figures of them."""

import math
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from personalive import models
from personalive.accel.accelerator import Accelerator
from personalive.config import CHUNK, ModelConfig
from personalive.engine.keyframes import KeyframeDecision, KeyframeTest
from personalive.engine.preprocess import DrivingFrames
from personalive.models.tiny_vae import TinyDecoder
from personalive.models.vae import VAE
from personalive.pipeline import PersonaLive
from personalive.testing.weight_rule import CORRECTIONS, is_ruled

GPU = torch.device("cuda")
Pixels: TypeAlias = npt.NDArray[np.uint8]


def fill(network: torch.nn.Module, name: str, seed: int) -> float:
    """Random weights with the scales of the weight rule, drawn on the device: the same at each run.

    Returns:
        Seconds that it took.
    """
    began = time.perf_counter()
    with torch.no_grad():
        for index, (key, tensor) in enumerate(network.state_dict().items()):
            if not is_ruled(key):
                continue
            generator = torch.Generator(tensor.device).manual_seed(seed * 100_003 + index)
            normal = torch.randn(tensor.shape, generator=generator, device=tensor.device)
            tensor.copy_(_ruled(normal, name, key))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _ruled(normal: torch.Tensor, name: str, key: str) -> torch.Tensor:
    last = key.rpartition(".")[2]
    if last == "running_mean":
        value = 0.1 * normal
    elif last == "running_var":
        value = 1 + 0.1 * normal.abs()
    elif last in ("gamma", "beta"):
        value = 0.2 * normal
    elif normal.dim() >= 2:
        value = normal * ((2.0 if name == "pose_guider" else 1.0) / math.sqrt(normal[0].numel()))
    else:
        value = 1 + 0.1 * normal if normal.dim() == 1 and last == "weight" else 0.02 * normal
    factor, offset = CORRECTIONS.get((name, key), (1.0, 0.0))
    if name == "denoising_unet" and "motion_modules." in key and key.endswith(("to_k.weight", "to_v.weight")):
        factor = 0.3
    return value * factor + offset


def build(
    config: ModelConfig,
    dtype: torch.dtype,
    choice: Accelerator | None,
    device: torch.device = GPU,
    *,
    tiny_vae: bool = False,
    times: dict[str, float] | None = None,
) -> PersonaLive:
    """A model with random weights; `times` gets the seconds of what a start with files would not do."""
    if choice is not None:
        choice.begin()
    networks: dict[str, torch.nn.Module] = {}
    filling = 0.0
    for number, name in enumerate(models.NETWORKS):
        with torch.device("meta"):
            network = models.build_network(name, config)
        empty = {
            key: torch.empty(tensor.shape, dtype=tensor.dtype, device=device) if tensor.is_meta else tensor
            for key, tensor in models.cast(network, dtype).state_dict().items()
        }
        network.load_state_dict(empty, assign=True)
        network.to(device).requires_grad_(False)
        filling += fill(network, name, number)
        if choice is not None and name in choice.idle_networks:
            network.cpu()
        networks[name] = network
    if times is not None:
        times["weights_made_up_s"] = filling
    if tiny_vae:
        vae = networks["vae"]
        assert isinstance(vae, VAE)
        vae.replace_decoder(TinyDecoder(config.vae).to(device, dtype).requires_grad_(False))
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # loading needs nothing beside the weights; making them up does
    return PersonaLive.from_modules(config, networks, dtype, choice)


def pictures(count: int, size: int, seed: int) -> list[Pixels]:
    """Coloured blocks that move a little from frame to frame."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = np.kron(blocks, np.ones((size // 8, size // 8, 1), dtype=np.uint8))
    return [np.roll(image, 3 * frame, axis=1) for frame in range(count)]


class Keyframes:
    """Makes a keyframe at each of the first calls until there are as many as wanted."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted

    def __call__(self, test: KeyframeTest) -> KeyframeDecision:
        return KeyframeDecision(None, test.keyframes < self.wanted)


class Animation:
    """A stream with prepared driving frames, which go round."""

    def __init__(self, model: PersonaLive, size: int, keyframes: int = 0, seed: int = 0) -> None:
        self.policy = Keyframes(keyframes)
        self.stream = model.stream(width=size, height=size, emit_lead_in=True, keyframes=self.policy, seed=seed)
        prepare = self.stream.preprocessor
        box = (size // 8, size // 8, size - size // 8, size - size // 8)
        self.box = box
        self.images = images = pictures(5 * CHUNK, size, seed)
        self.ahead: Future[DrivingFrames] | None = None
        self.stream.set_reference(prepare.reference(images[0], box))
        self.driving = prepare.driving(images, [box] * len(images))
        self.calls = 0

    def next_chunk(self) -> DrivingFrames:
        start = self.calls * CHUNK % len(self.driving)
        self.calls += 1
        return self.driving[start : start + CHUNK]

    def push(self) -> Pixels:
        return self.stream.push(self.next_chunk())

    def prepare(self) -> DrivingFrames:
        """The host's part of a chunk: pictures to tensors. While an animation runs, other threads do it."""
        return self.stream.preprocessor.driving(self.images[:CHUNK], [self.box] * CHUNK)

    def push_pictures(self) -> Pixels:
        """A call that prepares its pictures itself."""
        return self.stream.push(self.prepare())

    def push_ahead(self, pool: ThreadPoolExecutor) -> Pixels:
        """A call while another thread prepares the pictures of the next."""
        chunk = self.ahead.result() if self.ahead else self.prepare()
        self.ahead = pool.submit(self.prepare)
        return self.stream.push(chunk)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, extremes and frames per second of calls."""
    ordered = sorted(times)
    median = statistics.median(ordered)
    return {
        "median_ms": round(median, 2),
        "p10_ms": round(ordered[len(ordered) // 10], 2),
        "p90_ms": round(ordered[len(ordered) * 9 // 10], 2),
        "fps": round(CHUNK * 1e3 / median, 2),
    }


def gibibytes() -> dict[str, float]:
    """The most memory that PyTorch has held."""
    return {
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 3),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
    }
