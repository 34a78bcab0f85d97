"""A small model to train in tests, and a process of a distributed run: `python -m tests.training_worker OUT`."""

import dataclasses
import sys
from pathlib import Path

import torch

from personalive.config import DEMO, ModelConfig
from personalive.training.processes import Processes
from personalive.training.sources import Avatars
from personalive.training.stages import Batch
from personalive.training.train import Plan, Run
from personalive.training.trainee import Trainee

SMALL: ModelConfig = dataclasses.replace(
    DEMO,
    name="small",
    size=64,
    unet=dataclasses.replace(DEMO.unet, block_channels=(16, 24, 32)),
    vae=dataclasses.replace(DEMO.vae, block_channels=(8, 16, 24, 32)),
    image_encoder=dataclasses.replace(DEMO.image_encoder, image_size=64),
    motion_encoder=dataclasses.replace(DEMO.motion_encoder, image_size=48, landmark_channels=8),
    motion_extractor=dataclasses.replace(
        DEMO.motion_extractor, image_size=64, channels=(8, 16, 24, 32), depths=(1, 1, 1, 1)
    ),
    pose_guider=dataclasses.replace(DEMO.pose_guider, channels=(4, 8, 8, 16), output_channels=16),
)
SHARED_STAGES = {"vae": 3.0, "image": 3.0, "streaming": 5.0}
"""Steps of the distributed run: one network, several, and a stage that keeps a state of its own."""


def small_trainee(seed: int) -> Trainee:
    """The small networks on the CPU, with new weights from a seed."""
    return Trainee(SMALL, torch.device("cpu"), seed=seed, ema=False)


def make_run(out: Path, budgets: dict[str, float], processes: Processes, batch: Batch | None = None, **plan) -> Run:
    """A run of the small model, by steps and with exact checkpoints."""
    trainee = Trainee(SMALL, processes.device, seed=0)
    source = Avatars(SMALL.size, processes.device)
    batch = batch or Batch(pictures=4, people=2, frames=2, streams=2, pool=8)
    return Run(Plan(out, budgets, by_steps=True, batch=batch, local=True, **plan), trainee, source, processes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with Processes.start("cpu") as processes:
        run = make_run(Path(sys.argv[1]), SHARED_STAGES, processes)
        run.run()
        weights = {n: network.state_dict() for n, network in run.trainee.networks.items()}
        torch.save(weights, Path(sys.argv[1]) / f"rank{processes.rank}.pt")
