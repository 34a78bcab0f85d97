"""Motion that was kept drives like the video it came from, and what is no such file is refused."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from personalive.animate import driving_reader, plan
from personalive.animate.job import animate
from personalive.animate.motion_file import read_motion, write_motion
from personalive.animate.motion_header import is_motion
from personalive.cli import main as cli
from personalive.engine.stream import Stream
from personalive.errors import InputError, NoFaceError, OutputError, PersonaLiveError
from personalive.media.faces import FaceTracker
from personalive.media.video_reader import probe, read_frames
from personalive.models.fingerprint import fingerprint, matches
from personalive.settings import AnimateOptions
from personalive.testing.pictures import faceless, moving_face, save_video
from personalive.testing.small_model import make_small_model


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """20 frames with sound and a cut to a darker picture, of which the second and five later ones show no face."""
    pictures = [picture // 3 if index >= 12 else picture for index, picture in enumerate(moving_face(20))]
    for index in (1, 14, 15, 16, 17, 18):
        pictures[index] = faceless(256, 256)
    return save_video(tmp_path_factory.mktemp("hidden") / "talk.mp4", pictures, sound=True)


@pytest.fixture(scope="module")
def kept(small_model, portrait, hidden):
    """Its motion, beside it."""
    path = hidden.with_name("talk.motion")
    run(small_model, portrait, hidden, hidden.with_name("first.mp4"), save_motion=path)
    return path


def run(model, portrait, driver, output, **options):
    steps = list(animate(model, portrait, driver, output, AnimateOptions(**options)))
    frames = np.stack(list(read_frames(probe(output)))) if output.suffix == ".mp4" else None
    return frames, [step.message for step in steps if step.message]


@pytest.mark.parametrize(
    "options",
    [
        {"motion": "relative", "smooth": 0.5, "keep": ("roll",), "pose_strength": 0.5},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"expression_strength": 1.5, "loop": 2, "ping_pong": True}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_it_drives_to_the_same_file_as_its_video_without_encoders_and_faces(
    small_model, portrait, hidden, kept, tmp_path, monkeypatch, options
):
    expected = tmp_path / "video.mp4"
    _, said = run(small_model, portrait, hidden, expected, **options)
    encoded = []
    for name in ("extract_pose", "encode_motion"):
        function = getattr(small_model.networks, name)
        monkeypatch.setattr(
            small_model.networks,
            name,
            lambda images, function=function: encoded.append(len(images)) or function(images),
        )
    monkeypatch.setattr(Stream, "observe", lambda *_: pytest.fail("a driver's picture was encoded"))
    monkeypatch.setattr(plan, "track_face", lambda *_: pytest.fail("a face was searched for"))
    monkeypatch.setattr(driving_reader, "FaceTracker", lambda *_: pytest.fail("a face was searched for"))
    _, again = run(small_model, portrait, kept, tmp_path / "motion.mp4", **options)
    assert encoded == [1, 1], "only the portrait's own"
    assert (tmp_path / "motion.mp4").read_bytes() == expected.read_bytes(), "sound and all"
    assert again == said and any("only" in message or "no face" in message for message in said)


@pytest.mark.slow
def test_keypoints_need_no_face_mesh_here_either(small_model, portrait, hidden, tmp_path):
    options = {"face_boxes": "keypoints", "crop": "none"}
    run(small_model, portrait, hidden, tmp_path / "a.mp4", save_motion=hidden.with_name("keypoints.motion"), **options)
    run(small_model, portrait, hidden.with_name("keypoints.motion"), tmp_path / "b.mp4", **options)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.slow
def test_a_part_at_another_rate(small_model, portrait, kept, tmp_path):
    chosen = {"start": 0.4, "duration": 0.16, "fps": 50, "motion": "relative", "save_motion": tmp_path / "part.motion"}
    frames, said = run(small_model, portrait, kept, tmp_path / "part.mp4", **chosen)
    assert len(frames) == 8 and probe(tmp_path / "part.mp4").rate == 50
    assert any("a frame outside the part" in message for message in said)
    part, whole = read_motion(tmp_path / "part.motion"), read_motion(kept)
    source = [10, 10, 11, 11, 12, 12, 13, 13]
    assert torch.equal(part.recorded.motion.tokens, whole.recorded.motion.tokens[source])
    assert part.track.cuts == (4,) and 12 in whole.track.cuts
    assert float(part.sound.start) == 0.4 and not part.track.absences


@pytest.mark.slow
def test_its_sound_is_used_only_from_the_same_video_beside_it(small_model, portrait, hidden, kept, tmp_path):
    alone = tmp_path / "alone.motion"
    alone.write_bytes(kept.read_bytes())
    (tmp_path / "talk.mp4").write_bytes(hidden.read_bytes()[:-1])
    _, said = run(small_model, portrait, alone, tmp_path / "silent.mp4")
    assert probe(tmp_path / "silent.mp4").sound is None and any("talk.mp4, which has it" in line for line in said)
    run(small_model, portrait, kept, tmp_path / "loud.mp4")
    assert probe(tmp_path / "loud.mp4").sound is not None


def test_another_encoder_is_refused_by_name_and_rounding_is_none(small_model, portrait, kept, tmp_path):
    other = make_small_model()
    with torch.no_grad():
        for parameter in other.networks.modules["motion_encoder"].parameters():
            parameter += 0.5 * parameter.abs().mean() * torch.randn_like(parameter)
    networks = [other.networks.modules[name] for name in ("motion_encoder", "motion_extractor")]
    other.motion_fingerprint = fingerprint(networks)
    with pytest.raises(InputError, match="motion encoder of the model 'small', which is not that of this model"):
        run(other, portrait, kept, tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())
    for dtype in (torch.float16, torch.bfloat16):
        rounded = fingerprint([network.to(dtype) for network in networks])
        assert rounded != other.motion_fingerprint and matches(rounded, other.motion_fingerprint)


def test_what_it_cannot_do_is_refused(small_model, portrait, hidden, kept, tmp_path):
    for options, kind, said in (
        ({"side_by_side": True}, InputError, "has no pictures"),
        ({"start": 0.56, "duration": 0.2}, NoFaceError, "no face was seen in the 5 frames"),
        ({"start": 9}, InputError, "has only 0.80 s"),
        ({"motion": "relative", "neutral_frame": 1}, NoFaceError, "shows no face"),
        ({"still": "ease"}, InputError, "no picture"),
        ({"save_motion": kept}, OutputError, "already exists"),
        ({"save_motion": kept, "overwrite": True}, OutputError, "one of the inputs"),
        ({"save_motion": tmp_path / "talk.safetensors"}, OutputError, "ends with .motion"),
    ):
        with pytest.raises(kind, match=said):
            run(small_model, portrait, kept, tmp_path / "out.mp4", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_from_the_command_line(small_model_folder, portrait, hidden, tmp_path, caplog, monkeypatch):
    given = ["--ref_image", portrait, "--model", small_model_folder, "-L", 6]
    first = [*given, "--driving_video", hidden, "-o", tmp_path / "a.mp4", "--save_motion", tmp_path / "a.motion"]
    assert cli.main(["animate", *map(str, first)]) == 0
    monkeypatch.setattr(FaceTracker, "follow", lambda *_: pytest.fail("a face was searched for"))
    second = [*given, "--driving_video", tmp_path / "a.motion", "-o", tmp_path / "b.mp4", "--no_audio"]
    assert cli.main(["animate", *map(str, second)]) == 0
    frames = [np.stack(list(read_frames(probe(tmp_path / f"{name}.mp4")))) for name in "ab"]
    assert np.array_equal(*frames) and len(frames[0]) == 6
    assert len(read_motion(tmp_path / "a.motion").recorded) == 6


def test_a_run_that_ends_early_keeps_nothing(small_model, portrait, hidden, tmp_path):
    options = AnimateOptions(save_motion=tmp_path / "a.motion")
    work = animate(small_model, portrait, hidden, tmp_path / "out.mp4", options)
    for step in work:
        if step.stage == "animating" and step.frames_done:
            break
    work.close()
    assert not list(tmp_path.iterdir())


def damaged(path, tmp_path, **changes):
    """A copy with other tensors or metadata; None leaves one out."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    for name, value in changes.items():
        holder = metadata if name in metadata else tensors
        holder.pop(name)
        if value is not None:
            holder[name] = value
    save_file(tensors, tmp_path / "bad.motion", metadata)
    return tmp_path / "bad.motion"


BAD = {
    "version": "2", "rate": "1e999999999", "size": "0x5", "neutral": "20", "model": None, "still": "1",
    "fingerprint": "[NaN]", "sound": json.dumps(["../talk.mp4", "0" * 64, "0"]),
    "tokens": torch.full((20, 4, 16), torch.nan), "angles": torch.full((20, 3), 1e9), "scale": torch.ones(19, 1),
    "translation": torch.ones(20, 3, dtype=torch.float64), "canonical": None,
    "boxes": torch.zeros(20, 4), "absences": torch.ones(20, dtype=torch.uint8), "cuts": torch.tensor([5, 4]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_untrusted_content_is_refused(kept, tmp_path, name):
    path = damaged(kept, tmp_path, **{name: BAD[name]})
    said = "has version '2'" if name == "version" else "not a motion file of this program, or it is damaged"
    with pytest.raises(InputError, match=said):
        read_motion(path)


def test_an_unharmed_copy_is_read_and_recognised_by_its_content(kept, tmp_path):
    path = damaged(kept, tmp_path).rename(tmp_path / "driver")
    assert is_motion(path) and len(read_motion(path).recorded) == 20
    write_motion(read_motion(path), tmp_path / "again.motion")
    assert torch.equal(read_motion(tmp_path / "again.motion").recorded.motion.tokens, load_file(kept)["tokens"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_bytes_are_they_are_refused_or_read_as_motion(kept, tmp_path, data):
    content = bytearray(kept.read_bytes()[:40_000])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content[:8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    (tmp_path / "fuzz.motion").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        motion = read_motion(tmp_path / "fuzz.motion")
    except PersonaLiveError:
        return
    # A byte of a number may have changed to another number that can be.
    recorded = motion.recorded
    assert len(recorded) == 20 and recorded.motion.tokens.isfinite().all()
    assert all(values.isfinite().all() for values in vars(recorded.motion.pose).values())
