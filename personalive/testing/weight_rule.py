"""Deterministic weights, inputs, noise and pictures, the same bit for bit on every machine.

The numerical goldens were measured with networks filled by this rule, so a test needs no weights file to reproduce
them. Every tensor has its own generator, seeded with its name: order and device play no part.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Floats = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

KEPT_AS_CONSTRUCTED = frozenset({"num_batches_tracked", "idx_tensor", "pe", "pos_embed", "position_ids"})
"""Counters and tables, by the last part of their key."""

CORRECTIONS: dict[tuple[str, str], tuple[float, float]] = {
    ("motion_encoder", "model.bn_end0.weight"): (0.02, 0.0),
    ("motion_encoder", "model.conv6.bias"): (1.0, 1.5),
    ("motion_encoder", "final_proj.weight"): (7.0, 0.0),
    ("motion_extractor", "detector.fc_scale.bias"): (1.0, 1.0),
    ("motion_extractor", "detector.fc_t.weight"): (0.15, 0.0),
    ("motion_extractor", "detector.fc_kp.weight"): (0.35, 0.0),
    ("vae", "quant_conv.weight"): (8.0, 0.0),
    ("vae", "post_quant_conv.weight"): (0.03, 0.0),
}
"""Factor and offset that keep the random networks alive but not chaotic, by network and key."""


def generator(seed: int, kind: str, name: str) -> np.random.Generator:
    """The generator of one named thing."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{kind}:{name}".encode("ascii"))))


def is_ruled(key: str) -> bool:
    """Whether the rule says anything about this state-dict key."""
    return key.rpartition(".")[2] not in KEPT_AS_CONSTRUCTED


def weight(network: str, key: str, shape: Sequence[int], seed: int = 0) -> Floats:
    """The values of one tensor, float32 of the given shape."""
    normal = generator(seed, network, key).standard_normal(tuple(shape))
    last = key.rpartition(".")[2]
    if last == "running_mean":
        values = 0.1 * normal
    elif last == "running_var":
        values = 1 + 0.1 * np.abs(normal)
    elif last in ("gamma", "beta"):
        values = 0.2 * normal
    elif len(shape) >= 2:
        gain = 2.0 if network == "pose_guider" else 1.0
        values = normal * gain / math.sqrt(math.prod(shape[1:]))
    elif len(shape) == 1 and last == "weight":
        values = 1 + 0.1 * normal
    else:
        values = 0.02 * normal
    factor, offset = _correction(network, key)
    return np.asarray(factor * values + offset, dtype=np.float32)


def _correction(network: str, key: str) -> tuple[float, float]:
    if network == "denoising_unet" and "motion_modules." in key and key.endswith(("to_k.weight", "to_v.weight")):
        return 0.3, 0.0
    return CORRECTIONS.get((network, key), (1.0, 0.0))


def fill(module: nn.Module, network: str, seed: int = 0) -> None:
    """Overwrite every parameter and buffer of the state dict that the rule covers; dtype and device stay."""
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if is_ruled(key):
                tensor.copy_(torch.from_numpy(weight(network, key, tuple(tensor.shape), seed)))


def normal_input(name: str, shape: Sequence[int], scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Gaussian input with a name, float32."""
    return torch.from_numpy((generator(seed, "input", name).standard_normal(tuple(shape)) * scale).astype(np.float32))


def noise(k: int, shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """The k-th draw of a run, float32."""
    return torch.from_numpy(generator(seed, "noise", str(k)).standard_normal(tuple(shape)).astype(np.float32))


def mosaic(name: str, height: int, width: int, cells: int = 8, seed: int = 0) -> Image:
    """Picture of cells x cells flat patches, [height, width, 3]."""
    random = generator(seed, "image", name)
    grid = random.integers(0, 256, (cells, cells, 3))
    offset = random.integers(-96, 97, 3)
    amplitude = random.integers(20, 101)
    patches = np.clip(128 + offset + ((grid - 128) * amplitude) // 100, 0, 255).astype(np.uint8)
    rows = np.arange(height) * cells // height
    columns = np.arange(width) * cells // width
    return np.asarray(patches[rows[:, None], columns[None, :]])


def frame(segment: str, index: int, height: int, width: int, seed: int = 0) -> Image:
    """The index-th frame of a segment: its mosaic shifted right and made lighter or darker."""
    return _brighten(np.roll(mosaic(segment, height, width, seed=seed), 2 * index % width, axis=1), index)


def face(segment: str, index: int, seed: int = 0) -> Image:
    """The face crop of the index-th frame of a segment: a square whose side changes from frame to frame."""
    side = 72 + 7 * index % 25
    return _brighten(np.roll(mosaic(f"face_{segment}", side, side, seed=seed), index % 7, axis=0), index)


def _brighten(image: Image, index: int) -> Image:
    return np.clip(image.astype(np.int64) + 4 * (index % 5) - 8, 0, 255).astype(np.uint8)
