"""How far each network's rounding in fp16 moves the pictures: the end-to-end goldens on a CPU, one network at a time.

    python -m benchmarks.rounding ../shared/reference --output benchmarks/results/rounding.json

A network in fp16 computes as on a GPU: every operation in fp32 inside, its result rounded to fp16. The others stay in
fp32. For each golden: the mean of all frames' relative L2 error, and the median, which ignores the few frames whose
keypoints moved to another pixel.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from benchmarks.precision import errors, frames_of, golden_rows
from personalive import models
from personalive.models.denoising_unet import ReferenceFeatures
from personalive.pipeline import PersonaLive
from personalive.testing.parity.end_to_end import EndToEnd, LoggedNetworks
from personalive.testing.parity.networks import SIZES, network

GOLDENS = ("e2e/offline_24.npz", "e2e/online_6.npz")
PARTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "motion extractor": ("motion_extractor", ("",), ("forward",)),
    "motion encoder": ("motion_encoder", ("",), ("forward",)),
    "pose guider": ("pose_guider", ("",), ("forward",)),
    "image encoder": ("image_encoder", ("vision_model", "visual_projection"), ("forward",)),
    "VAE encoder": ("vae", ("encoder", "quant_conv"), ("forward",)),
    "reference UNet": ("reference_unet", ("",), ("forward",)),
    "denoising UNet": ("denoising_unet", ("",), ("forward",)),
    "VAE decoder": ("vae", ("decoder", "post_quant_conv"), ("forward",)),
}
"""By name: the network, its parts, and their functions."""


class RoundedOperations(TorchDispatchMode):
    """Operations on fp16 tensors compute in fp32 and round their result, as GPUs do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        aliases = any(item.alias_info is not None for item in func._schema.returns)
        tensors: list[Tensor] = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if aliases or "dtype" in kwargs or not any(t.dtype == torch.float16 for t in tensors):
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, lambda t: t.float() if t.dtype == torch.float16 else t, (args, kwargs))
        # Mixing fp16 with fp32 yields fp32, if both have dimensions.
        if any(t.dtype == torch.float32 and t.dim() for t in tensors):
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        return tree_map_only(Tensor, lambda t: t.half() if t.dtype == torch.float32 else t, result)


def in_half(function: Callable[..., Any]) -> Callable[..., Any]:
    """A network's function in fp16, between fp32 values."""

    def run(*arguments: Any, **named: Any) -> Any:
        given = _cast(arguments, torch.float32, torch.float16)
        named = {name: _cast(value, torch.float32, torch.float16) for name, value in named.items()}
        with RoundedOperations():  # type: ignore[no-untyped-call]  # its base brings no types
            return _cast(function(*given, **named), torch.float16, torch.float32)

    return run


def _cast(values: Any, before: torch.dtype, after: torch.dtype) -> Any:
    if hasattr(values, "pooler_output"):  # what transformers' network returns; only this is used
        values.pooler_output = values.pooler_output.to(after)
        return values
    if isinstance(values, ReferenceFeatures):
        return ReferenceFeatures(_cast(values.embedding, before, after), _cast(values.banks, before, after))
    return tree_map_only(Tensor, lambda leaf: leaf.to(after) if leaf.dtype == before else leaf, values)


def remembering(function: Callable[..., Any], memory: dict[Any, Any]) -> Callable[..., Any]:
    """The function, memoised: the largest networks see the same pictures in all runs."""

    def run(images: Tensor) -> Any:
        key = images.shape, hash(images.numpy().tobytes())
        if key not in memory:
            memory[key] = function(images)
        return memory[key]

    return run


class RoundedEndToEnd(EndToEnd):
    """Animations with some networks in fp16."""

    def __init__(self, parts: tuple[str, ...], memory: dict[Any, Any]) -> None:
        super().__init__()
        self.parts, self.memory = parts, memory

    def model(self, size: str, seed: int) -> LoggedNetworks:
        if (size, seed) not in self._models:
            networks = {name: network(name, SIZES[size], seed) for name in models.NETWORKS}
            for part in self.parts:
                name, places, methods = PARTS[part]
                for place in places:
                    self._round(networks[name].get_submodule(place), methods)
            for part in ("motion extractor", "motion encoder"):
                name, kind = PARTS[part][0], (part, part in self.parts)
                forward = remembering(networks[name].forward, self.memory.setdefault(kind, {}))
                setattr(networks[name], "forward", forward)  # noqa: B010
            model = PersonaLive.from_modules(SIZES[size], networks, self.dtype)
            self._models[size, seed] = LoggedNetworks(model.networks)
        return self._models[size, seed]

    def _round(self, part: nn.Module, methods: tuple[str, ...]) -> None:
        part.half()
        for method in methods:
            setattr(part, method, in_half(getattr(part, method)))


def main() -> None:
    """Each network alone in fp16, then all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--goldens", nargs="+", default=list(GOLDENS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/rounding.json"))
    arguments = parser.parse_args()
    combinations = {part: (part,) for part in arguments.parts} | {"all": tuple(arguments.parts)}
    results: dict[str, Any] = {"torch": torch.__version__}
    memory: dict[Any, Any] = {}
    with torch.inference_mode():
        for combination, parts in combinations.items():
            whole = RoundedEndToEnd(parts, memory)
            for name in arguments.goldens:
                frames, _ = frames_of(whole, name, arguments.folder)
                found = errors(frames, golden_rows(arguments.folder, name))
                results.setdefault(combination, {})[name] = found
                print(f"{combination:18} {name}  mean {found['mean']:.3%}  median {found['median']:.3%}", flush=True)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
