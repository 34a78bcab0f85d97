"""The flags that say which model runs, and how: the same for every verb of the command."""

import argparse
import dataclasses
from pathlib import Path

from personalive.accel.accelerator import ACCELERATIONS, QUANTIZE_NAMES
from personalive.accel.ops.attention import ATTENTION_NAMES
from personalive.loading import DTYPES, ModelChoice


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
        choices=ATTENTION_NAMES,
        default=ModelChoice.attention,
        help="kernels for attention (default: %(default)s)",
    )
    group.add_argument(
        "--accelerate",
        choices=ACCELERATIONS,
        default=ModelChoice.accelerate,
        help="on a GPU; compile and max take minutes the first time (default: %(default)s)",
    )
    group.add_argument(
        "--quantize",
        choices=QUANTIZE_NAMES,
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
