"""The commands around training: fine-tuning on videos, merging and exporting checkpoints."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from personalive import PersonaLive, weights
from personalive.config import PRESETS
from personalive.errors import InputError, WeightsError
from personalive.models import NETWORKS
from personalive.testing.pictures import faceless, save_video
from personalive.training import checkpoints, export, keyframe_distances, merge, train
from personalive.training.avatars import sample_identities, sample_tracks
from personalive.training.checkpoints import read_config, read_index, read_tensors, write_portable
from personalive.training.demo_assets import pictures, write_video
from personalive.training.videos import LEAST_FRAMES, VideoFolder
from tests.training_worker import SMALL, small_trainee

CPU = torch.device("cpu")
FRAMES = LEAST_FRAMES + 2


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """One drawn person who moves, wider than high; a video without a face; one that is not a video."""
    folder = tmp_path_factory.mktemp("videos")
    generator = torch.Generator().manual_seed(21)
    person, track = sample_identities(1, generator), sample_tracks(1, FRAMES, generator)
    frames = pictures(person, track, 128)
    write_video(folder / "person.mp4", np.pad(frames, ((0, 0), (0, 0), (32, 32), (0, 0)), mode="edge"))
    save_video(folder / "empty.mp4", [faceless()] * LEAST_FRAMES)
    (folder / "broken.mkv").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def source(videos):
    return VideoFolder(videos, SMALL.size, CPU)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A finished model with the networks of `SMALL`, as it may stand in for the published one."""
    folder = tmp_path_factory.mktemp("model")
    weights.save_folder(folder, SMALL, small_trainee(seed=3).networks, torch.float16)
    return folder


@pytest.mark.slow
def test_videos_give_the_middle_square_and_the_face_in_it(source):
    ((images, boxes),) = source.videos
    assert images.shape == (FRAMES, 3, SMALL.size, SMALL.size) and images.dtype == torch.uint8
    assert boxes.shape == (FRAMES, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides > SMALL.size / 4).all() and (sides < SMALL.size).all(), "in the picture's own pixels"
    middle = (boxes[:, 2:] + boxes[:, :2]) / 2
    assert ((middle - SMALL.size / 2).abs() < SMALL.size / 4).all(), "the drawn face is about the middle"


def test_a_folder_without_usable_videos_is_refused(tmp_path):
    save_video(tmp_path / "empty.mp4", [faceless()] * 3)
    with pytest.raises(InputError, match="no video with a face"):
        VideoFolder(tmp_path, SMALL.size, CPU)


@pytest.mark.slow
def test_examples_from_videos_repeat_by_seed_and_the_driver_is_the_target_in_other_colours(source):
    reference, driving, target = source.stills(2, 3, seed=5)
    again = source.stills(2, 3, seed=5)[2]
    assert reference.images.shape[:2] == (2, 1) and target.images.shape[:2] == driving.images.shape[:2] == (2, 3)
    assert torch.equal(again.images, target.images)
    assert torch.equal(driving.boxes, target.boxes) and not torch.allclose(driving.images, target.images, atol=0.05)
    clips = source.clips(2, 3 * FRAMES, seed=6)  # longer than the video: it goes back and forth
    driving, target = clips.frames(FRAMES - 4, FRAMES + 4)
    assert target.images.shape == (2, 8, 3, SMALL.size, SMALL.size)
    steps = (target.images[:, 1:] - target.images[:, :-1]).abs().mean(dim=(2, 3, 4))
    assert (steps < 0.2).all(), "neighbours in time are alike"
    assert driving.pose is None and clips.ramp() is None and not source.labelled


def run(out, *arguments):
    batch = ["--pictures", "4", "--people", "2", "--frames", "2", "--streams", "2"]
    train.main(["--out", str(out), "--device", "cpu", "--steps", *batch, *map(str, arguments)])


@pytest.mark.slow
def test_a_published_model_is_fine_tuned_on_videos(tmp_path, videos, model_folder):
    """As docs/training.md says, with reduced networks in a folder in place of the published ones."""
    budgets = "image=3,temporal=3,streaming=5,decoder=2"
    options = ("--preset", "personalive", "--start", model_folder, "--videos", videos, "--rate", "0.02", "--no-average")
    run(tmp_path / "mine", *options, "--budget", budgets)
    started = {name: network.state_dict() for name, network in small_trainee(seed=3).networks.items()}
    tuned = read_tensors(tmp_path / "mine", read_index(tmp_path / "mine"))
    assert read_config(tmp_path / "mine") == SMALL, "sizes and scale of latents are the model's"
    assert read_index(tmp_path / "mine")["progress"]["done"] == ["image", "temporal", "streaming", "decoder"]
    # What was trained has moved a little, and what was not has not.
    for network, key in (("denoising_unet", "conv_in.weight"), ("vae", "decoder.conv_in.weight")):
        moved = (tuned[f"{network}.{key}"].float() - started[network][key]).abs()
        assert 0 < moved.max() < 0.02, network
    for network, key in (("vae", "encoder.conv_in.weight"), ("motion_extractor", "detector.fc_t.weight")):
        assert torch.equal(tuned[f"{network}.{key}"], started[network][key].half()), network
    assert not (tmp_path / "mine" / "preview.png").exists(), "it shows drawn people"
    export.main([str(tmp_path / "mine"), str(tmp_path / "model")])
    assert PersonaLive.from_pretrained(tmp_path / "model", device="cpu").config == SMALL


@pytest.mark.slow
def test_training_from_nothing_by_the_command_ends_with_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "demo", SMALL)
    run(tmp_path, "--budget", "vae=2,image=2")
    assert {"preview.png", "vae.png", "preview.csv", "metrics.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_videos_have_no_labels_for_stages_that_need_them(tmp_path, videos):
    with pytest.raises(InputError, match="leave extractor, expression out"):
        run(tmp_path, "--videos", videos, "--budget", "extractor=2,expression=2,image=2")


def portable(folder, trainee, done, **config):
    tensors = {
        f"{name}.{key}": value.half() if value.is_floating_point() else value
        for name, network in trainee.networks.items()
        for key, value in network.state_dict().items()
    }
    write_portable(folder, dataclasses.replace(trainee.config, **config), tensors, {"done": done, "run": {}})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoints of two runs that share an encoder, and of one from elsewhere."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = small_trainee(seed=1), small_trainee(seed=2)
    portable(folder / "other", second, [])
    shared = {
        key: value for key, value in first.networks["vae"].state_dict().items() if key.startswith(merge.ENCODER[0][4:])
    }
    second.networks["vae"].load_state_dict(shared, strict=False)
    second.networks["vae"].quant_conv.load_state_dict(first.networks["vae"].quant_conv.state_dict())
    portable(folder / "a", first, ["vae", "image"])
    portable(folder / "b", second, ["vae", "decoder", "extractor"], keyframe_threshold=5.0)
    return folder


@pytest.mark.slow
def test_networks_of_several_runs_become_one_model(runs, tmp_path):
    sources = [f"{runs}/a:*", f"{runs}/b:vae,motion_extractor"]
    merge.main(["--out", str(tmp_path / "whole"), "--from", sources[0], "--from", sources[1]])
    whole, a, b = (read_tensors(path, read_index(path)) for path in (tmp_path / "whole", runs / "a", runs / "b"))
    assert whole.keys() == a.keys()
    for key, value in whole.items():
        expected = b if key.startswith(("vae.", "motion_extractor.")) else a
        assert torch.equal(value, expected[key]), key
    assert set(read_index(tmp_path / "whole")["progress"]["done"]) == {"vae", "image", "decoder", "extractor"}
    export.main([str(tmp_path / "whole"), str(tmp_path / "model"), "--keyframe-threshold", "6.5"])
    assert PersonaLive.from_pretrained(tmp_path / "model", device="cpu").config.keyframe_threshold == 6.5


def test_networks_that_do_not_go_together_are_refused(runs, tmp_path):
    def merged(*sources, out=tmp_path / "whole"):
        merge.merge(merge.parse_sources(sources), out)

    with pytest.raises(WeightsError, match="was not trained with the encoder"):
        merged(f"{runs}/other:vae", f"{runs}/a:*")
    merged(f"{runs}/other:motion_extractor", f"{runs}/a:*", out=tmp_path / "fine")  # it sees pictures, not latents
    trainee = small_trainee(seed=1)
    trainee.set_latent_scale(0.5)
    portable(tmp_path / "scaled", trainee, [])
    with pytest.raises(WeightsError, match="was not trained with the encoder"):
        merged(f"{tmp_path}/scaled:vae", f"{runs}/a:*")
    shutil.copytree(runs / "b", tmp_path / "damaged")
    path = tmp_path / "damaged" / "weights-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="damaged"):
        merged(f"{tmp_path}/damaged:vae", f"{runs}/a:*")
    with pytest.raises(InputError, match="choose another --out"):
        merged(f"{runs}/a:*", out=runs / "a")
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "must look like"),
        (["a:vea"], "is not a network"),
        (["a:vae"], "no source"),
        (["a:*", "b:*"], "once"),
        (["a:vae", "b:vae", "c:*"], "already"),
    ],
)
def test_sources_of_networks_are_checked(texts, message):
    with pytest.raises(InputError, match=message):
        merge.parse_sources(texts)


def test_every_network_has_one_source():
    assert merge.parse_sources(["a:*"]).keys() == set(NETWORKS)


def test_a_checkpoint_of_other_sizes_is_refused_and_of_other_defaults_is_not(runs):
    trainee = small_trainee(seed=4)
    checkpoints.load_portable(runs / "b", trainee)  # with another keyframe threshold
    other = dataclasses.replace(SMALL, motion_extractor=dataclasses.replace(SMALL.motion_extractor, image_size=32))
    with pytest.raises(WeightsError, match="other sizes"):
        checkpoints.load_portable(runs / "b", type(trainee)(other, CPU))


def test_half_of_the_tracks_make_a_keyframe_at_the_suggested_threshold():
    random = torch.Generator().manual_seed(8)
    tracks = []
    for scale in range(1, 11):  # drivers that move more and more
        driver = torch.randn(25, 4, 16, generator=random) * scale
        driver[:5] *= 100  # before the first call that may make a keyframe
        tracks.append((torch.zeros(1, 4, 16), driver))
    threshold = keyframe_distances.suggest(tracks)
    made = [keyframe_distances.simulate(*track, threshold) for track in tracks]
    assert made[:5] == [0] * 5 and all(made[5:]) and max(made) <= 3
    assert keyframe_distances.simulate(*tracks[-1], 0.0) == 3
    assert keyframe_distances.simulate(*tracks[-1], 1e6) == 0


@pytest.mark.slow
def test_distances_of_the_demo_models_tokens(capsys):
    keyframe_distances.main(["--tracks", "1", "--frames", "40"])
    printed = capsys.readouterr().out
    assert "suggested keyframe_threshold:" in printed and "keyframes a track" in printed


def test_what_is_no_checkpoint_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        export.main([str(tmp_path), str(tmp_path / "model")])
    assert "checkpoint.json cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
