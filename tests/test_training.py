"""Training from scratch on the CPU, interrupted, resumed, damaged, and on two processes."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from personalive import PersonaLive
from personalive.errors import InputError, WeightsError
from personalive.training import checkpoints
from personalive.training.processes import Processes
from personalive.training.sources import Avatars
from personalive.training.stages import Batch, DecoderStage
from personalive.training.streaming import StreamingStage
from personalive.training.train import LOG_EVERY, STAGES, parse_budgets
from personalive.training.trainee import Trainee
from tests.training_worker import SHARED_STAGES, SMALL, make_run

CPU = Processes(rank=0, world=1, device=torch.device("cpu"))


def metrics(folder: Path, stage: str, metric: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if (row["stage"], row["metric"]) == (stage, metric)]


def same(a: Trainee, b: Trainee) -> bool:
    return all(
        torch.equal(x, y)
        for kind in ("networks", "average")
        for name in a.networks
        for x, y in zip(
            getattr(a, kind)[name].state_dict().values(), getattr(b, kind)[name].state_dict().values(), strict=True
        )
    )


@pytest.mark.slow
def test_a_minute_of_training_lowers_every_loss(tmp_path):
    budgets = dict.fromkeys(STAGES, 2.0 * LOG_EVERY) | {"extractor": 4.0 * LOG_EVERY}
    batch = Batch(pictures=6, people=2, frames=2, streams=2)

    source = Avatars(SMALL.size, CPU.device)

    def fixed_loss(name, trainee):
        """On fixed people, noise and calls; those of training vary."""
        stages: dict[str, Callable[[], Any]] = {
            "streaming": lambda: StreamingStage(trainee, source, batch, own=True),
            "decoder": lambda: DecoderStage(trainee, source, batch),
        }
        stage = stages[name]()
        total = 0.0
        with torch.no_grad():
            for call in range(4):
                results = stage.compute(stage.prepare(call, seed=11))
                stage.take(results)
                total += float(results["loss"])
        return total

    early = {name: budget for name, budget in budgets.items() if name not in ("streaming", "decoder")}
    run = make_run(tmp_path, early, CPU, batch, rates=8.0)
    run.run()
    for stage in early:
        values = metrics(tmp_path, stage, "loss")
        assert values[-1] < values[0], (stage, values)
    for stage, rates in (("streaming", 4.0), ("decoder", 1.0)):
        run = make_run(tmp_path, early | {stage: budgets[stage]}, CPU, batch, rates=rates)
        assert run.restore()
        before = fixed_loss(stage, run.trainee)
        run.run()
        assert fixed_loss(stage, run.trainee) < before, stage
    assert set(run.done) == set(STAGES)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "image", "streaming"])
def test_a_resumed_run_continues_exactly(tmp_path, stage):
    whole = make_run(tmp_path / "whole", {stage: 7.0}, CPU)
    whole.run()
    part = make_run(tmp_path / "part", {stage: 7.0}, CPU, deadline=-1.0)
    part.run()  # too late from the start: it saves after its first step
    assert part.done == []
    rest = make_run(tmp_path / "part", {stage: 7.0}, CPU)
    assert rest.restore()
    rest.run()
    assert rest.done == [stage]
    assert same(whole.trainee, rest.trainee)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run = make_run(folder, {"vae": 2.0}, CPU)
    run.run()
    return folder, run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local.pt", "weights-0.safetensors"])
def test_a_corrupt_checkpoint_is_refused(finished, tmp_path, name):
    folder, _ = finished
    for path in folder.iterdir():
        if name == "local.pt" or not path.name.startswith("local"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(WeightsError, match=name):
        make_run(tmp_path, {"vae": 2.0}, CPU).restore()


def test_a_portable_checkpoint_is_small_and_becomes_a_model(finished, tmp_path):
    folder, run = finished
    assert all(path.stat().st_size < 16e6 for path in folder.glob("weights-*"))
    checkpoints.export(folder, tmp_path / "model")
    model = PersonaLive.from_pretrained(tmp_path / "model", device="cpu")
    assert model.config.vae.scaling_factor == pytest.approx(run.trainee.config.vae.scaling_factor)
    images = torch.zeros(1, 3, SMALL.size, SMALL.size)
    with torch.inference_mode():
        expected = run.trainee.average["vae"].encode(images)[0] * model.config.vae.scaling_factor
        difference = (model.networks.encode_image(images) - expected).abs().mean()
        assert difference < 0.02 * expected.abs().mean()  # what fp16 costs


def test_latents_have_unit_variance_after_the_vae_stage(finished):
    _, run = finished
    images = run.source.portraits(64, seed=1_000_003).images.flatten(0, 1)
    average = run.trainee.average["vae"]
    latents = average.encode(images)[0] * run.trainee.config.vae.scaling_factor
    assert float(latents.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.training_worker"]
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, *command, str(tmp_path)], env=environment, cwd=root, check=True)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, network in first.items():
        for key, tensor in network.items():
            # Running statistics of batch norms are each process's own; the first one's are saved.
            assert "running" in key or "num_batches" in key or torch.equal(tensor, second[name][key]), (name, key)
    assert checkpoints.read_index(tmp_path)["progress"]["done"] == list(SHARED_STAGES)


def test_budgets_are_checked():
    assert parse_budgets("vae=2,image=3.5") == {"vae": 2, "image": 3.5}
    for wrong in ("vae", "vea=3", "vae=0", "vae=x"):
        with pytest.raises(InputError, match="budget"):
            parse_budgets(wrong)


def test_the_driver_of_a_clip_moves_as_the_target_does():
    clips = Avatars(64, CPU.device).clips(2, 8, seed=4)
    driving, target = clips.frames(0, 8)
    assert torch.equal(driving.pose.angles, target.pose.angles.unflatten(0, (2, 8)).flip(0).flatten(0, 1))
    assert not torch.equal(driving.images, target.images)
    moved = target.pose.translation.unflatten(0, (2, 8))
    assert np.allclose(moved[0] - moved[0, 0], moved[1] - moved[1, 0], atol=1e-6)
    assert target.pose.scale.unflatten(0, (2, 8)).std(dim=1).max() < 1e-6
