"""A batch on a Ray cluster: here one of this machine alone, with GPUs that are only counted."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from personalive.batch.options import BatchOptions
from personalive.batch.run import run_batch
from personalive.errors import InputError
from personalive.loading import ModelChoice
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import moving_face, save_video

ray = pytest.importorskip("ray", reason='needs pip install "personalive[scale]", 750 MB')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

JOBS, FRAMES = 12, 8


@pytest.fixture(scope="module")
def cluster():
    ray.init("local", num_gpus=4, num_cpus=4, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def jobs(tmp_path, portrait):
    (tmp_path / "me.png").write_bytes(portrait.read_bytes())
    save_video(tmp_path / "talk.mp4", moving_face(FRAMES), sound=True)
    rows = [
        {"reference": "me.png", "driver": "talk.mp4", "output": f"out/{row}.mp4", "seed": row} for row in range(JOBS)
    ]
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows.append({"reference": "bad.png", "driver": "talk.mp4", "output": f"file://{tmp_path}/out/bad.mp4"})
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


DEFAULTS = AnimateOptions(face_boxes="keypoints", crop="center")


def run(jobs, model):
    options = BatchOptions(jobs=jobs, ray="local", workers=2)
    (*_, last) = run_batch(options, DEFAULTS, ModelChoice(model=str(model)))
    return last


def ray_workers():
    """Processes of the cluster that make jobs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"RayWorker" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.usefixtures("cluster")
def test_every_job_is_made_once_although_a_worker_is_lost(jobs, small_model_folder):
    killed = []

    def kill():
        while not list(jobs.parent.glob("out/[0-9].mp4")):
            time.sleep(0.05)
        killed.extend(ray_workers()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    last = run(jobs, small_model_folder)
    killer.join()
    assert killed and (last.made, last.failed) == (JOBS, 1)
    rows = [json.loads(line) for line in (jobs.parent / "results.jsonl").read_text().splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(1, JOBS + 2))
    assert [row["row"] for row in rows if row["status"] == "failed"] == [JOBS + 1]
    results = [jobs.parent / "out" / f"{row}.mp4" for row in range(JOBS)]
    assert {len(list(read_frames(probe(path)))) for path in results} == {FRAMES}
    made = [path.stat().st_ino for path in results]
    again = run(jobs, small_model_folder)
    assert (again.old, again.made, again.failed) == (JOBS, 0, 1)
    assert [path.stat().st_ino for path in results] == made


@pytest.mark.usefixtures("cluster")
def test_what_the_cluster_cannot_do_is_refused(jobs, tmp_path):
    with pytest.raises(InputError, match="it must be cpu or cuda"):
        (*_,) = run_batch(BatchOptions(jobs=jobs, ray="local"), DEFAULTS, ModelChoice(device="cuda:1"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        run(jobs, tmp_path / "empty")
