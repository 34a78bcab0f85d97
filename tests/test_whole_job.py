"""The main job from end to end: published weights from a hub, a real photograph, a saved stream in another process."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from personalive import weights
from personalive.animate.job import animate
from personalive.cli import main as cli
from personalive.config import UNetConfig
from personalive.media.faces import FaceTracker
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import moving_face, photograph
from personalive.testing.small_model import make_small_model
from tests.hub_stand_in import HubStandIn
from tests.published_layout import SMALL, as_repositories, random_states, write_layout

DEMO = Path(__file__).parents[1] / "demo"
ONE_HEAD = dataclasses.replace(
    SMALL, size=256, unet=UNetConfig(block_channels=(32, 32, 32, 32), heads=1, cross_attention_dim=32)
)
"""In the published structure, and quick."""


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.slow
def test_published_weights_are_downloaded_loaded_and_used(tmp_path, monkeypatch, portrait, driver, capsys):
    """The command as for the published model; only the hub's address and the sizes are replaced."""
    write_layout(tmp_path / "layout", random_states(ONE_HEAD), ONE_HEAD)
    with HubStandIn(as_repositories(tmp_path / "layout", tmp_path / "repositories")) as server:
        hub = weights.Hub(server.url, home=tmp_path / "home")
        monkeypatch.setattr("personalive.pipeline.weights.resolve", partial(weights.resolve, hub=hub, config=ONE_HEAD))
        output = tmp_path / "out.mp4"
        arguments = ["animate", "--model", "personalive", "--ref_image", portrait, "--driving_video", driver]
        assert cli.main([*map(str, arguments), "-L", "2", "-o", str(output)]) == 0
        assert server.fetched("denoising_unet.pth"), "it came from the hub"
    assert capsys.readouterr().out.strip() == str(output)
    assert [frame.shape for frame in frames_of(output)] == [(256, 256, 3)] * 2
    with av.open(str(output)) as container:
        assert "model small" in container.metadata["comment"]

    # The second time, nothing is left to ask the hub for.
    monkeypatch.setattr(
        "personalive.pipeline.weights.resolve",
        partial(weights.resolve, hub=weights.Hub("http://127.0.0.1:9", home=tmp_path / "home"), config=ONE_HEAD),
    )
    assert cli.main([*map(str, arguments), "-L", "1", "-o", str(tmp_path / "again.mp4")]) == 0


@pytest.mark.slow
def test_photograph_and_demo_driver_go_through_the_whole_job(small_model, portrait, tmp_path):
    steps = list(
        animate(small_model, portrait, DEMO / "driver.mp4", tmp_path / "out.mp4", AnimateOptions(side_by_side=True))
    )
    frames = frames_of(tmp_path / "out.mp4")
    assert len(frames) == 100 and steps[-1].faceless == 0
    info = probe(tmp_path / "out.mp4")
    assert info.sound == "aac" and info.rate == 25
    # What is shown as reference is the photographed face, upright and not squashed.
    with FaceTracker() as tracker:
        (shown,) = tracker.detect(np.ascontiguousarray(frames[0][:, :256]))
        (original,) = tracker.detect(photograph())
    left, top, right, bottom = shown.box
    assert right - left == pytest.approx(bottom - top, abs=2)
    assert 256 / 3.2 < right - left < 256 / 1.5, "head and shoulders fill the picture"
    assert original.area < shown.area * 4


@pytest.mark.parametrize("name", ["driver.mp4", "portrait.png"])
def test_demo_assets_show_one_face_in_every_frame(name):
    from personalive.media.images import read_image

    frames = read_frames(probe(DEMO / name)) if name.endswith("mp4") else [read_image(DEMO / name)]
    with FaceTracker() as tracker:
        counts = [len(tracker.detect(frame)) for frame in frames]
    assert counts == [1] * (100 if name.endswith("mp4") else 1)


def prepared(stream):
    """12 driving frames of a moving face, and the reference, ready for a stream."""
    box = (30, 60, 200, 230)
    pictures = moving_face(12)
    return stream.preprocessor.reference(photograph(), (150, 60, 300, 200)), stream.preprocessor.driving(
        pictures, [box] * len(pictures)
    )


CONTINUE = """
import sys, numpy as np, torch
from personalive.testing.small_model import make_small_model
from tests.test_whole_job import prepared

stream = make_small_model().stream(seed=5, keyframe_threshold=0.0)
_, driving = prepared(stream)
for _ in range(9):  # this process has drawn other random numbers
    torch.randn(7)
stream.load_state_dict(torch.load(sys.argv[1], weights_only=True))
np.savez(sys.argv[2], pushed=stream.push(driving), flushed=stream.flush())
"""


@pytest.mark.slow
def test_saved_stream_continues_bit_for_bit_in_another_process(tmp_path):
    stream = make_small_model().stream(seed=5, keyframe_threshold=0.0)
    reference, driving = prepared(stream)
    stream.set_reference(reference)
    for _ in range(4):
        stream.push(driving)
    stream.push(driving[:3])  # in the middle of a chunk, after the first keyframes
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    (tmp_path / "continue.py").write_text(CONTINUE)
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, tmp_path / "continue.py", tmp_path / "state.pt", tmp_path / "other.npz"],
        check=True,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    with np.load(tmp_path / "other.npz") as other:
        assert len(other["pushed"]) == 12 and len(other["flushed"]) > 0
        assert np.array_equal(other["pushed"], stream.push(driving))
        assert np.array_equal(other["flushed"], stream.flush())
