"""What several GPUs of one host do beside one: jobs from file to file, and live sessions; random weights.

    python -m benchmarks.several_gpus --output benchmarks/results/h100_two_gpus.json

Each GPU has a process of its own, as `personalive batch` and `personalive serve` give it one. First one GPU works
alone, then all at the same time. A chunk is late by what its delay exceeds the usual one of a session that has the
GPU for itself. So many sessions are carried as have a 95th percentile of lateness below the time of a chunk, and as
many pictures as the camera.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.in_process import Setting, measure
from benchmarks.measuring import Results
from personalive.accel.accelerator import Accelerator
from personalive.benchmark.lifelike import lifelike
from personalive.benchmark.random_model import random_model
from personalive.benchmark.whole_job import DISTINCT, OPTIONS, make_driver, run_job
from personalive.config import CHUNK, MAX_KEYFRAME_THRESHOLD, ModelConfig
from personalive.live.core.model import ModelFactory
from personalive.live.core.parameters import LoadParameters

SIZE = 512
"""Width and height of jobs, in pixels."""
JUST_AS_MANY = 0.97
"""The share of a camera's pictures that has to come back."""


class Worker:
    """One GPU's process."""

    def __init__(self, index: int, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        os.environ["CUDA_VISIBLE_DEVICES"] = str(index)  # a new process reads it before CUDA starts
        self._process = context.Process(target=work, args=(other, options), daemon=True)
        self._process.start()
        del os.environ["CUDA_VISIBLE_DEVICES"]

    def begin(self, what: str, *values: Any) -> None:
        """Start something."""
        self._connection.send((what, values))

    def result(self) -> Any:
        """What came out of it."""
        return self._connection.recv()


def work(connection: Connection, options: argparse.Namespace) -> None:
    """Do what is asked for, until the other end is gone."""
    model = random_model(ModelConfig(), Accelerator(torch.device("cuda"), torch.float16))
    pictures = lifelike(DISTINCT, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        driver, result = Path(folder) / "driver.mp4", Path(folder) / "result.mp4"
        make_driver(pictures, options.frames, driver)
        run_job(model, driver, pictures, result, OPTIONS.replace(max_frames=8 * CHUNK))

        def jobs(number: int) -> float:
            """Seconds that they took, one after another."""
            began = time.perf_counter()
            for _ in range(number):
                run_job(model, driver, pictures, result)
            return time.perf_counter() - began

        connection.send(torch.cuda.get_device_name())
        engine = None
        while True:
            try:
                what, values = connection.recv()
            except EOFError:
                return
            if what == "jobs":
                connection.send(jobs(*values))
                continue
            engine = engine or ModelFactory(lambda: model, face_boxes=True)(
                LoadParameters(width=options.live_size, height=options.live_size), print
            )
            connection.send(measure(engine, *values))


def measure_jobs(workers: Sequence[Worker], options: argparse.Namespace, results: Results) -> None:
    """Frames a second of all together, beside one alone."""
    alone: list[float] = []
    together: list[float] = []
    for _ in range(options.rounds):
        for active, rates in ((workers[:1], alone), (workers, together)):
            for worker in active:
                worker.begin("jobs", options.jobs)
            slowest = max(worker.result() for worker in active)
            rates.append(len(active) * options.jobs * options.frames / slowest)
    results.add("jobs: frames a second, one GPU", [round(rate, 2) for rate in alone])
    results.add(f"jobs: frames a second, {len(workers)} GPUs", [round(rate, 2) for rate in together])
    results.add("jobs: share of so many times one", round(max(together) / max(alone) / len(workers), 4))


def measure_sessions(workers: Sequence[Worker], options: argparse.Namespace, results: Results) -> None:
    """The most sessions that all together carry, beside one alone."""
    setting = Setting("balanced", 1, options.fps, options.seconds, MAX_KEYFRAME_THRESHOLD, options.max_batch)
    workers[0].begin("live", setting)
    first = workers[0].result()
    results.add("live: one session", first)
    carried = []
    for active in (workers[:1], workers):
        runs, most = [], 0
        for people in range(options.people_from, options.people + 1):
            for worker in active:
                worker.begin("live", replace(setting, people=people))
            found = [worker.result() for worker in active]
            runs.append(found)
            print(found, flush=True)
            if not all(keeps_up(each, first, options.fps) for each in found):
                break
            most = people * len(active)
        results.add(f"live: runs of {len(active)} GPUs", runs)
        results.add(f"live: sessions that {len(active)} GPUs carry", most)
        carried.append(most)
    if carried[0]:
        results.add("live: times one GPU's", round(carried[1] / carried[0], 3))


def keeps_up(found: dict[str, Any], first: dict[str, Any], fps: float) -> bool:
    """Whether these sessions are late by less than a chunk."""
    if "failed" in found:
        return False
    late_ms: float = found["delay_p95_ms"] - first["delay_p50_ms"]
    return late_ms < CHUNK / fps * 1e3 and found["pictures_per_second"] >= JUST_AS_MANY * fps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/several_gpus.json"))
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="for each GPU, one after another")
    parser.add_argument("--frames", type=int, default=400, help="of a job")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--live_size", type=int, default=256, help="width and height of sessions, in pixels")
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run of sessions")
    parser.add_argument("--max_batch", type=int, default=1, help="sessions in one call")
    parser.add_argument("--people_from", type=int, default=1, help="sessions of a GPU to begin with")
    parser.add_argument("--people", type=int, default=16, help="sessions of a GPU to end with")
    options = parser.parse_args()
    results = Results(options.output)
    workers = [Worker(index, options) for index in range(options.gpus)]
    results.add("GPUs", [worker.result() for worker in workers])
    with results.attempt("jobs"):
        measure_jobs(workers, options, results)
    with results.attempt("sessions"):
        measure_sessions(workers, options, results)


if __name__ == "__main__":
    main()
