"""Trains a model, stage by stage (docs/training.md).

    python -m personalive.training.train --out runs/demo --budget vae=200,extractor=60,image=300
    torchrun --nproc-per-node 4 -m personalive.training.train ...

Budgets are in seconds, or in steps with `--steps`. A run that finds its own checkpoint under `--out` continues from it.
"""

import argparse
import csv
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from personalive import weights
from personalive.config import PRESETS
from personalive.errors import InputError, WeightsError
from personalive.training import checkpoints
from personalive.training.expression import ExpressionStage
from personalive.training.heads.model import load_heads
from personalive.training.heads.source import Heads
from personalive.training.image_stage import ImageStage
from personalive.training.mixture import DRAWN, Mixture
from personalive.training.preview import save_preview
from personalive.training.processes import Processes
from personalive.training.sources import Avatars, Source
from personalive.training.stages import Batch, DecoderStage, ExtractorStage, Stage, VAEStage
from personalive.training.streaming import StreamingStage
from personalive.training.trainee import Trainee
from personalive.training.updates import Update

STAGES = ("vae", "extractor", "expression", "image", "temporal", "streaming", "decoder")
LOG_EVERY = 12
"""Steps that are averaged for one line of the metrics."""
SAVE_EVERY = 150.0
"""Seconds between portable checkpoints within a stage."""
POOL = 4096
"""Heads in space that are drawn ahead for the autoencoder."""

log = logging.getLogger("personalive.training")


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    out: Path
    budgets: dict[str, float]
    by_steps: bool = False
    deadline: float = math.inf
    """Seconds after which the run saves and stops, wherever it is."""
    seed: int = 0
    batch: Batch = field(default_factory=Batch)
    rates: float = 1.0
    """A factor on all learning rates."""
    local: bool = False
    """Whether to keep exact checkpoints as well."""
    whole: bool = False
    """Whether training starts from a finished model, whose extractor finds poses."""


class Run:
    """One training run of one process."""

    def __init__(self, plan: Plan, trainee: Trainee, source: Source, processes: Processes) -> None:
        self.plan, self.trainee, self.source, self.processes = plan, trainee, source, processes
        plan.out.mkdir(parents=True, exist_ok=True)
        self.began = self.saved = time.monotonic()
        self.done: list[str] = []
        self._resumed: dict[str, Any] | None = None
        self._recent: list[dict[str, float]] = []

    def run(self) -> None:
        """Go through the stages that have a budget and are not done."""
        for number, name in enumerate(STAGES):
            if name in self.plan.budgets and name not in self.done:
                if not self._train(self._stage(name), number):
                    break
                self.done.append(name)
                self._save(None)
        self.processes.wait()

    def _stage(self, name: str) -> Stage:
        trainee, source, batch, rank = self.trainee, self.source, self.plan.batch, self.processes.rank
        if name in ("temporal", "streaming"):
            own = name == "streaming"
            finds_poses = self.plan.whole or "extractor" in self.done
            return StreamingStage(trainee, source, batch, own, found_poses=own and finds_poses)
        if name == "image":
            return ImageStage(trainee, source, batch, rank)
        alone: dict[str, type[VAEStage] | type[ExtractorStage] | type[ExpressionStage]] = {
            "vae": VAEStage,
            "decoder": DecoderStage,
            "extractor": ExtractorStage,
            "expression": ExpressionStage,
        }
        return alone[name](trainee, source, batch)

    def _train(self, stage: Stage, number: int) -> bool:
        """One stage; False if the deadline came first."""
        for network in self.trainee.networks.values():
            self.processes.same([*network.parameters(), *network.buffers()])
        chosen = self.trainee.choose(stage.trains)
        stage.begin()
        update = Update(stage, chosen, self.processes, stage.rate * self.plan.rates)
        first, spent = self._resume(stage, update.optimizer)
        self._recent.clear()
        started = time.monotonic() - spent
        for step in range(first, 1 << 62):
            seed = ((number * 1_000_003 + step) * 64 + self.processes.rank + self.plan.seed * 7919) % (1 << 62)
            inputs = stage.prepare(step, seed)
            elapsed = time.monotonic() - started
            budget = self.plan.budgets[stage.name]
            progress = (step + 1) / budget if self.plan.by_steps else elapsed / budget
            late = time.monotonic() - self.began > self.plan.deadline
            progress, overdue, losses = update.run(step, inputs, progress, late)
            self._report(stage, step, elapsed, progress, losses)
            if overdue:
                self._save((stage, update.optimizer, step + 1, elapsed))
                return False
            if progress >= 1 - 1e-6:
                break
            if time.monotonic() - self.saved > SAVE_EVERY:
                self._save((stage, update.optimizer, step + 1, elapsed))
        stage.end()
        return True

    def _report(self, stage: Stage, step: int, elapsed: float, progress: float, losses: dict[str, float]) -> None:
        self._recent.append(losses)
        if not self.processes.first:
            self._recent.clear()
        if not self.processes.first or ((step + 1) % LOG_EVERY and progress < 1):
            return
        values = {name: fmean(entry[name] for entry in self._recent) for name in losses}
        self._recent.clear()
        path = self.plan.out / "metrics.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(("stage", "step", "seconds", "metric", "value"))
            time_spent = f"{elapsed:.1f}"
            writer.writerows((stage.name, step, time_spent, name, f"{value:.5g}") for name, value in values.items())
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        log.info("%s %3.0f%%  step %d  %.0f s  %s", stage.name, 100 * min(progress, 1), step, elapsed, shown)

    def _resume(self, stage: Stage, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """First step of a stage and the seconds spent on it before."""
        state, self._resumed = self._resumed, None
        if state is None or state["stage"] != stage.name:
            return 0, 0.0
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
            stage.load_state_dict(state["inner"][self.processes.rank])
        return state["step"], state["elapsed"]

    def restore(self) -> bool:
        """Continue from the checkpoints under `out`, preferably the exact one; False if there are none.

        Raises:
            WeightsError: a checkpoint is damaged.
        """
        folder = self.plan.out
        if (folder / checkpoints.LOCAL).exists():
            state = checkpoints.load_local(folder)
            for kind, networks in (("networks", self.trainee.networks), ("average", self.trainee.average)):
                for name, network in networks.items():
                    network.load_state_dict(state[kind][name])
            self.trainee.set_latent_scale(state["scale"])
            if len(state["run"].get("inner", [])) not in (0, self.processes.world):
                raise WeightsError(f"the checkpoint {folder} comes from a run with another number of processes")
            self.done, self._resumed = list(state["done"]), state["run"] or None
        elif (folder / checkpoints.INDEX).exists():
            progress = checkpoints.load_portable(folder, self.trainee)
            self.done = list(progress["done"])
            # The optimizer is new, so the stage's steps are counted from 0 again, but not its time.
            self._resumed = progress["run"] and {**progress["run"], "step": 0}
        else:
            return False
        return True

    def _save(self, current: tuple[Stage, torch.optim.Optimizer, int, float] | None) -> None:
        """Write a portable checkpoint, and an exact one if wanted. Every process takes part."""
        self.saved = time.monotonic()
        self.trainee.keep_statistics()
        run: dict[str, Any] = {}
        if current is not None:
            run = {"stage": current[0].name, "step": current[2], "elapsed": current[3]}
        if self.processes.first:
            checkpoints.save_portable(self.plan.out, self.trainee, {"done": self.done, "run": run})
        if self.plan.local:
            inner = self._gather(None if current is None else current[0].state_dict())
            if self.processes.first:
                if current is not None:
                    run = {**run, "optimizer": current[1].state_dict(), "inner": inner}
                networks = {name: network.state_dict() for name, network in self.trainee.networks.items()}
                average = {name: network.state_dict() for name, network in self.trainee.average.items()}
                scale = self.trainee.config.vae.scaling_factor
                state = {"networks": networks, "average": average, "done": self.done, "run": run, "scale": scale}
                checkpoints.save_local(self.plan.out, state)

    def _gather(self, state: Any) -> list[Any]:
        if self.processes.world == 1:
            return [state]
        states: list[Any] = [None] * self.processes.world
        torch.distributed.all_gather_object(states, state)
        return states


def parse_budgets(text: str) -> dict[str, float]:
    """Parse `vae=200,image=300`.

    Raises:
        InputError: an unknown stage, or not a number.
    """
    budgets = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            budgets[name] = float(value)
        except ValueError:
            raise InputError(f"budget {part!r} must look like vae=200") from None
        if name not in STAGES or not budgets[name] > 0:
            raise InputError(f"budget {part!r}: the stages are {', '.join(STAGES)}, and a budget is more than 0")
    return budgets


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m personalive.training.train", description="Train a model.")
    parser.add_argument(
        "--preset", default="demo", choices=sorted(PRESETS), help="sizes of new networks; --start has its own"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and samples")
    parser.add_argument("--budget", required=True, help="seconds per stage, e.g. vae=200,extractor=60,image=300")
    parser.add_argument("--steps", action="store_true", help="budgets are in steps, not seconds")
    parser.add_argument("--deadline", type=float, default=math.inf, help="seconds after which to save and stop")
    parser.add_argument("--start", help='weights to start from: "demo", "personalive", or a folder')
    parser.add_argument("--resume", type=Path, help="portable checkpoint to start from if --out has none")
    parser.add_argument("--videos", type=Path, help="folder of videos to train on instead of drawn people")
    parser.add_argument("--heads", type=Path, help="heads in space, as heads.bake wrote them, to train on")
    parser.add_argument("--drawn", type=float, default=DRAWN, help="share of drawn people among --heads, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rates")
    parser.add_argument("--device", help="cuda or cpu; default: cuda if there is one")
    parser.add_argument("--no-average", action="store_true", help="save the weights, not their moving average")
    parser.add_argument("--no-preview", action="store_true", help="make no pictures at the end")
    parser.add_argument("--exact", action="store_true", help="keep exact checkpoints as well")
    parser.add_argument("--pictures", type=int, default=Batch.pictures, help="batch of the VAE and extractor stages")
    parser.add_argument("--people", type=int, default=Batch.people, help="people per step of the image stage")
    parser.add_argument("--frames", type=int, default=Batch.frames, help="frames per person in the image stage")
    parser.add_argument(
        "--streams", type=int, default=Batch.streams, help="streams per step of the temporal and streaming stages"
    )
    parser.add_argument(
        "--pool",
        type=int,
        help="pictures drawn ahead for the VAE and decoder stages, a byte per value on the device; "
        f"0: all are new; default: {POOL} with --heads, otherwise 0",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    args = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    pool = args.pool if args.pool is not None else POOL if args.heads is not None else 0
    if pool < 0:
        raise InputError(f"--pool {pool} is a number of pictures: 0 or more")
    batch = Batch(args.pictures, args.people, args.frames, args.streams, pool)
    budgets = parse_budgets(args.budget)
    if args.videos is not None and args.heads is not None:
        raise InputError("give --videos or --heads, not both")
    if not 0 <= args.drawn <= 1:
        raise InputError(f"--drawn {args.drawn:g} is a share: 0 to 1")
    unlabelled = [stage for stage in ("extractor", "expression") if args.videos is not None and stage in budgets]
    if unlabelled:
        raise InputError(f"the faces in --videos have no labels: leave {', '.join(unlabelled)} out of --budget")
    start = None if args.start is None else weights.resolve(args.start)
    whole = start is not None
    plan = Plan(args.out, budgets, args.steps, args.deadline, args.seed, batch, args.rate, args.exact, whole)
    with Processes.start(args.device) as processes:
        config = PRESETS[args.preset] if start is None else start.config
        trainee = Trainee(config, processes.device, seed=args.seed, ema=not args.no_average)
        source = _source(args, trainee, processes)
        run = Run(plan, trainee, source, processes)
        if not run.restore():
            _start(args, start, run)
        run.run()
        if processes.first and source.labelled and not args.no_preview:
            save_preview(plan.out, trainee)


def _source(args: argparse.Namespace, trainee: Trainee, processes: Processes) -> Source:
    size, device = trainee.config.size, processes.device
    if args.heads is not None:
        return Mixture(Heads(load_heads(args.heads, device), size), Avatars(size, device), args.drawn)
    if args.videos is None:
        return Avatars(size, device)
    from personalive.training.videos import VideoFolder

    return VideoFolder(args.videos, size, device)


def _start(args: argparse.Namespace, start: weights.WeightsSource | None, run: Run) -> None:
    if start is not None:
        checkpoints.load_model(start, run.trainee)
    elif args.resume is not None:
        run.done = list(checkpoints.load_portable(args.resume, run.trainee)["done"])


if __name__ == "__main__":
    main()
