"""Batches of the command, with real processes and a small model, whatever is killed and when."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from personalive.animate.job import animate
from personalive.loading import ModelChoice
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import moving_face, save_video

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

JOBS, WORKERS, KILLS = 40, 4, 20
FRAMES = 8
OPTIONS = {"face_boxes": "keypoints", "crop": "center"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, portrait):
    folder = tmp_path_factory.mktemp("batch")
    (folder / "me.png").write_bytes(portrait.read_bytes())
    for index in range(3):
        save_video(folder / f"talk{index}.mp4", moving_face(FRAMES, step=1.0 + index), sound=True)
    return folder


@pytest.fixture(scope="module")
def single(folder, small_model_folder, tmp_path_factory):
    """Decoded frames and sound of every job, each made by itself, by the model as the command loads it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = ModelChoice(model=str(small_model_folder), device="cpu").load()
    out = tmp_path_factory.mktemp("single")
    found = []
    for row in range(JOBS):
        path = out / f"{row}.mp4"
        options = AnimateOptions(**OPTIONS, seed=row)
        list(animate(model, folder / "me.png", folder / f"talk{row % 3}.mp4", path, options))
        found.append(content(path))
    torch.set_num_threads(threads)
    return found


def content(path):
    with av.open(str(path)) as container:
        sound = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.stack(list(read_frames(probe(path)))), np.concatenate(sound, axis=1)


@pytest.fixture
def jobs(folder, tmp_path):
    rows = (
        {"reference": f"{folder}/me.png", "driver": f"{folder}/talk{row % 3}.mp4", "output": f"{row}.mp4", "seed": row}
        for row in range(JOBS)
    )
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(f"{json.dumps({**row, **OPTIONS})}\n" for row in rows))
    return path


def start(jobs, model, *more):
    command = [sys.executable, "-m", "personalive.cli.main", "batch", str(jobs), "--model", str(model)]
    return subprocess.Popen(
        [*command, "--device", "cpu", "--workers", str(WORKERS), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(folder):
    """By number: which file each finished result is."""
    found = {}
    for path in (folder / ".personalive").glob("*.mp4.json"):
        if json.loads(path.read_text())["state"] == "done":
            number = path.name.removesuffix(".mp4.json")
            found[number] = (folder / f"{number}.mp4").stat().st_ino
    return found


def check_results(folder, single):
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(1, JOBS + 1)), "each job once"
    assert {row["status"] for row in rows} == {"done"}
    for row, (frames, sound) in enumerate(single):
        made_frames, made_sound = content(folder / f"{row}.mp4")
        assert np.array_equal(made_frames, frames) and np.array_equal(made_sound, sound), row
    assert not list(folder.glob("*.part-*"))


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def working_children(pid):
    """Those of the workers that work on a job, which is when ffmpeg encodes for them."""
    return [each for each in children(pid) if any_child(each)]


def any_child(pid):
    with suppress(OSError):
        return bool(children(pid))
    return False


def test_workers_that_are_killed_cost_no_result(jobs, single, small_model_folder):
    rng, killed = random.Random(17), 0
    process = start(jobs, small_model_folder, "--retries", "50")
    while process.poll() is None:
        time.sleep(rng.uniform(0.1, 2.0))
        with suppress(OSError):
            victims = working_children(process.pid)
            if victims and killed < KILLS:
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed += 1
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert killed >= 5 and "was killed by SIGKILL; it is made again" in said, said
    print(f"{killed} workers killed")
    check_results(jobs.parent, single)


def test_the_whole_killed_at_any_moment_goes_on(jobs, single, small_model_folder):
    rng = random.Random(18)
    before, redone = {}, []
    for kill in range(KILLS):
        process = start(jobs, small_model_folder)
        goal = len(before) + rng.randrange(3)
        while process.poll() is None and len(done(jobs.parent)) < min(goal, JOBS - 5):
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 3.0))
        if kill % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()  # its processes have to notice that
        process.communicate()
        for path in jobs.parent.glob("[0-9]*.mp4"):
            if ".part-" not in path.name:
                assert len(list(read_frames(probe(path)))) == FRAMES, "whole"
        after = done(jobs.parent)
        assert before.items() <= after.items(), "what was done is not done again"
        begun = list((jobs.parent / ".personalive").glob("*.mp4.json"))
        redone.append(len(begun) - len(after))
        assert redone[-1] <= WORKERS
        before = after
    process = start(jobs, small_model_folder)
    said = process.communicate()[1]
    assert process.returncode == 0 and len(before) < JOBS, said
    assert before.items() <= done(jobs.parent).items()
    print(f"jobs that were under way at each kill: {redone}")
    check_results(jobs.parent, single)


def test_ctrl_c_leaves_nothing_unfinished(jobs, small_model_folder):
    process = start(jobs, small_model_folder)
    while not working_children(process.pid):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate()[1]
    assert process.returncode == 130 and "the same command goes on" in said, said
    there = {path.name for path in jobs.parent.rglob("*") if path.is_file()}
    finished = set(done(jobs.parent))
    notes = {f"{number}.mp4.json" for number in finished}
    assert there == {f"{number}.mp4" for number in finished} | notes | {"jobs.jsonl", "results.jsonl"}
