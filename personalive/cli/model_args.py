"""The flags that say which model runs, and how: the same for every verb of the command."""

import argparse
import dataclasses
from pathlib import Path
from typing import get_args

from personalive.loading import DTYPES, ModelChoice
from personalive.types import AccelerationName, AttentionName, QuantizeName


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the flags that `model_choice` reads."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="personalive, demo, or a folder with weights (default: personalive where a GPU is found, else demo)",
    )
    group.add_argument("--device", metavar="NAME", help="cuda, cuda:1 or cpu (default: the GPU if there is one)")
    group.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        help="(default: fp16 on a GPU; on a CPU fp32, with a decoder in bf16 where that is faster)",
    )
    group.add_argument(
        "--attention",
        choices=get_args(AttentionName),
        default=ModelChoice.attention,
        help="kernels for attention (default: %(default)s)",
    )
    group.add_argument(
        "--accelerate",
        choices=get_args(AccelerationName),
        default=ModelChoice.accelerate,
        help="on a GPU: none runs kernel by kernel, graphs replays CUDA graphs (default: %(default)s)",
    )
    group.add_argument(
        "--quantize",
        choices=get_args(QuantizeName),
        default=ModelChoice.quantize,
        help="fp8: on GPUs from RTX 40 on, compute with 8 bits where it pays: faster, and less exact "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--tiny_vae",
        type=Path,
        metavar="PATH",
        help="decode with this TAESD (a folder or .safetensors file in diffusers' layout): faster, and less exact",
    )
    group.add_argument("--low_memory", action="store_true", help="use less memory of the GPU, at the price of speed")


def model_choice(options: argparse.Namespace) -> ModelChoice:
    """What the flags of `add_model_arguments` say; each has the name of its field, but `--model` is the source."""
    names = {field.name for field in dataclasses.fields(ModelChoice)} - {"source"}
    return ModelChoice(options.model, **{name: getattr(options, name) for name in names})
