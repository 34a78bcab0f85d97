"""Merges the networks of several portable checkpoints, so that stages can be trained in parallel.

    python -m personalive.training.merge --out runs/whole --from runs/a:vae,motion_extractor --from "runs/b:*"

`*` means every network for which no other source is named.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personalive.config import ModelConfig
from personalive.errors import InputError, PersonaLiveError, WeightsError
from personalive.models import NETWORKS
from personalive.training import checkpoints

REST = "*"
ENCODER = ("vae.encoder.", "vae.quant_conv.")
"""What makes the latents that every other network except the motion extractor works on."""


def parse_sources(texts: Sequence[str]) -> dict[str, Path]:
    """Parse `FOLDER:vae,motion_extractor` and `FOLDER:*` into a folder for every network.

    Raises:
        InputError: a network is unknown, named twice or not at all, or the text has another form.
    """
    chosen: dict[str, Path] = {}
    rest: list[Path] = []
    for text in texts:
        folder, colon, names = text.rpartition(":")
        if not colon or not folder:
            raise InputError(f"--from {text!r} must look like runs/a:vae,motion_extractor or runs/b:{REST}")
        for name in names.split(","):
            if name == REST:
                rest.append(Path(folder))
            elif name not in NETWORKS:
                raise InputError(f"--from {text!r}: {name!r} is not a network; the networks are {', '.join(NETWORKS)}")
            elif name in chosen:
                raise InputError(f"--from {text!r}: {name} already comes from {chosen[name]}")
            else:
                chosen[name] = Path(folder)
    if len(rest) > 1:
        raise InputError(f"{REST} is given for {rest[0]} and for {rest[1]}: give it once")
    missing = [name for name in NETWORKS if name not in chosen]
    if missing and not rest:
        raise InputError(f"no source is given for {', '.join(missing)}: add --from FOLDER:{REST}")
    return chosen | dict.fromkeys(missing, rest[0])


def merge(sources: dict[str, Path], out: Path) -> None:
    """Write a portable checkpoint with each network from its own source, and the stages of all of them marked as done.

    Args:
        sources: a portable checkpoint for every network.
        out: another folder.

    Raises:
        InputError: `out` is one of the sources.
        WeightsError: a checkpoint is damaged, or they do not fit together.
    """
    folders = list(dict.fromkeys(sources.values()))
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise InputError(f"{out} is one of the sources: choose another --out")
    indices = {folder: checkpoints.read_index(folder) for folder in folders}
    configs = {folder: checkpoints.read_config(folder) for folder in folders}
    _check_sizes(configs)
    tensors = {folder: checkpoints.read_tensors(folder, indices[folder]) for folder in folders}
    _check_latents(sources, configs, tensors)
    merged = {
        key: value for name in NETWORKS for key, value in tensors[sources[name]].items() if key.startswith(f"{name}.")
    }
    scale = configs[sources["vae"]].vae.scaling_factor
    config = configs[sources["denoising_unet"]]
    config = replace(config, vae=replace(config.vae, scaling_factor=scale))
    checkpoints.write_portable(out, config, merged, {"done": _stages(indices), "run": {}})


def _check_sizes(configs: dict[Path, ModelConfig]) -> None:
    (first, config), *others = configs.items()
    for folder, other in others:
        if not checkpoints.same_networks(config, other):
            raise WeightsError(f"the networks of {folder} have other sizes than those of {first}: they do not fit")


def _check_latents(
    sources: dict[str, Path], configs: dict[Path, ModelConfig], tensors: dict[Path, dict[str, Tensor]]
) -> None:
    """The UNets must have been trained on the latents that the chosen autoencoder makes."""
    own = sources["vae"]
    for name in ("reference_unet", "denoising_unet"):
        other = sources[name]
        same = configs[own].vae == configs[other].vae and all(
            torch.equal(value, tensors[other][key]) for key, value in tensors[own].items() if key.startswith(ENCODER)
        )
        if not same:
            raise WeightsError(
                f"the {name} of {other} was not trained with the encoder of the vae in {own}: "
                f"start one run from the other's checkpoint (--resume)"
            )


def _stages(indices: dict[Path, dict[str, Any]]) -> list[str]:
    """The stages that any of the runs has done."""
    return list(dict.fromkeys(stage for index in indices.values() for stage in index["progress"]["done"]))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m personalive.training.merge", description="Merge checkpoints.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new portable checkpoint")
    parser.add_argument(
        "--from",
        dest="sources",
        action="append",
        required=True,
        metavar="FOLDER:NETWORKS",
        help="may be given several times",
    )
    args = parser.parse_args(arguments)
    try:
        sources = parse_sources(args.sources)
        merge(sources, args.out)
    except PersonaLiveError as error:
        parser.exit(1, f"{error}\n")
    print("\n".join(f"{name}: {folder}" for name, folder in sources.items()))


if __name__ == "__main__":
    main()
