"""The parts of the live server on their own: rings, play-out, sessions, scheduler, clients, options."""

import asyncio
import io
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from personalive.engine.cues import PLAIN, Cue
from personalive.errors import InputError, NoFaceError
from personalive.live.core.faces import LOST_AFTER, FaceFinder, MeshFaces, Wanted
from personalive.live.core.frames import CameraFrame, FrameRing, Picture, Playout, SenderClock, between, nearest
from personalive.live.core.parameters import Parameters
from personalive.live.core.pictures import decode, decode_all
from personalive.live.core.preparation import Preparation
from personalive.live.http.security import TokenCheck
from personalive.live.http.server import PRESETS
from personalive.live.hub import portrait
from personalive.live.options import IceServer, ServeOptions
from personalive.media.portrait import Portrait
from personalive.testing.echo import EchoEngine
from personalive.types import RGBArray
from tests.certificates import Authority
from tests.live_support import RED, until

IMAGE = np.full((64, 64, 3), 100, dtype=np.uint8)


def frame(captured: float, image: RGBArray = IMAGE) -> CameraFrame:
    return CameraFrame(captured, lambda: image, captured)


# ---- frames ----


@given(st.integers(1, 40).flatmap(lambda count: st.tuples(st.integers(count, 200), st.just(count))))
def test_chosen_frames_are_even_and_end_with_the_newest(numbers):
    have, count = numbers
    ring = FrameRing(have)
    for index in range(have):
        ring.add(frame(float(index)))
    indices = [each.captured for each in ring.take(count)]
    assert len(set(indices)) == count and indices == sorted(indices)
    assert indices[0] >= 0 and indices[-1] == have - 1
    steps = np.diff([-1, *indices])
    assert steps.max() - steps.min() <= 1


@given(st.integers(4, 400), st.sampled_from([1, 2, 4]))
def test_a_full_ring_still_covers_the_whole_time(frames, count):
    ring = FrameRing(16)
    for index in range(frames):
        ring.add(frame(float(index)))
    assert len(ring) <= 16
    chosen = [each.captured for each in ring.take(count)]
    assert chosen[-1] == frames - 1 and len(ring) == 0
    assert ring.dropped == frames - count
    gaps = np.diff([-1, *chosen])
    assert gaps.max() <= 1.5 * frames / count + 2 * frames / 16 + 2


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=20, unique=True).map(sorted),
    st.lists(st.floats(0, 100), min_size=1, max_size=8).map(sorted),
)
def test_nearest_frames_are_different_and_in_order(times, wanted):
    wanted = wanted[: len(times)]
    indices = nearest(times, wanted)
    assert indices == sorted(set(indices)) and len(indices) == len(wanted)


def test_frames_out_of_order_are_left_out():
    ring = FrameRing()
    for captured in (1.0, 3.0, 2.0, 3.0):
        ring.add(frame(captured))
    assert len(ring) == 2 and ring.dropped == 2


def pictures(first: float, count: int = 4, spacing: float = 0.04) -> list[Picture]:
    return [Picture(IMAGE, first + spacing * index, None, True) for index in range(count)]


def play(chunks: list[tuple[float, float]], until_time: float) -> list[tuple[float, float]]:
    """Show what arrives as (arrival, first capture); gives times of show and capture."""
    playout, shown, now = Playout(4), [], 0.0
    arriving = list(chunks)
    while now < until_time:
        while arriving and arriving[0][0] <= now:
            playout.push(pictures(arriving.pop(0)[1]), now)
        if (each := playout.pop(now)) is not None:
            shown.append((now, each.captured))
        now += 0.001
    return shown


def test_pictures_keep_the_driver_s_rhythm():
    late = [0.0, 0.03, 0.01, 0.05, 0.0, 0.02, 0.04, 0.01, 0.03, 0.0] * 3
    shown = play([(0.16 * n + 0.3 + late[n], 0.16 * n) for n in range(30)], 5.2)
    assert len(shown) == 120
    gaps = np.diff([when for when, _ in shown])[24:]
    assert gaps.min() > 0.03 and gaps.max() < 0.05
    delays = [when - captured for when, captured in shown]
    assert max(delays) < 0.36


def test_a_late_spell_raises_the_delay_only_for_a_while():
    chunks = [(0.16 * n + 0.3 + (0.4 if n == 10 else 0), 0.16 * n) for n in range(80)]
    chunks = [
        (max(when, chunks[10][0]) if index > 10 else when, captured) for index, (when, captured) in enumerate(chunks)
    ]
    shown = play(chunks, 13)
    delays = np.array([when - captured for when, captured in shown])
    assert delays.max() > 0.45 and delays[-1] < 0.35
    gaps = np.diff([when for when, _ in shown])
    assert np.sort(gaps)[-3] < 0.1, "there is no gap but for the late chunk itself and one step to catch up"


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=30))
def test_at_most_one_chunk_waits_and_the_newest_is_never_left_out(gaps):
    playout, now = Playout(4), 1.0
    for gap in gaps:
        now += gap
        playout.push(pictures(now - 0.2), now)
        assert len(playout) <= 8
    newest = None
    while (due := playout.due()) is not None:
        newest = playout.pop(max(due, now)) or newest
    assert newest is not None and newest.captured == pytest.approx(now - 0.2 + 0.12)


def test_jitter_of_the_network_does_not_reach_the_stamps():
    clock, rng = SenderClock(), np.random.default_rng(0)
    arrivals = np.arange(200) * 0.04 + 10 + rng.exponential(0.02, 200)
    captured = [clock.captured(0.04 * n, arrival) for n, arrival in enumerate(arrivals)]
    assert np.all(np.array(captured) <= arrivals + 1e-9)
    assert np.abs(np.diff(captured[50:]) - 0.04).max() < 0.003


def test_a_clock_that_jumps_is_followed():
    clock = SenderClock()
    assert clock.captured(0.0, 100.0) == 100.0
    assert clock.captured(5000.0, 100.1) == pytest.approx(100.1)


def test_pictures_between_two_frames_get_times_between():
    indices, times = zip(*between(0.0, [0.4, 0.8], 4), strict=True)
    assert indices == (0, 0, 1, 1) and times == pytest.approx([0.2, 0.4, 0.6, 0.8])
    indices, times = zip(*between(0.0, [0.4, 0.8, 2.0], 4), strict=True)
    assert indices == (0, 1, 2, 2) and times == pytest.approx([0.3, 0.6, 1.1, 2.0])


# ---- faces ----


class Script:
    """A tracker that says what it is told to."""

    def __init__(self, *boxes):
        self.boxes, self.closed = list(boxes), False

    def follow(self, image):
        return self.boxes.pop(0) if self.boxes else None

    def close(self):
        self.closed = True


def test_a_frame_without_a_face_takes_the_last_box_at_its_own_size():
    finder = FaceFinder(Script((10, 10, 30, 30), None))
    assert finder.find(IMAGE, 0.0)[0] == (10, 10, 30, 30)
    assert finder.find(np.zeros((128, 128, 3), np.uint8), 0.1)[0] == (20, 20, 60, 60)
    assert [finder.find(IMAGE, 0.2 + index)[0] for index in range(LOST_AFTER)] == [(10, 10, 30, 30)] * LOST_AFTER
    assert not finder.visible


def test_motion_of_frames_without_a_face_is_never_used():
    finder = FaceFinder(Script(None, (1, 2, 3, 4), None, (1, 2, 3, 4)))
    cues = [finder.find(IMAGE, index / 25)[1] for index in range(4)]
    assert cues[0] == Cue(weight=0.0, neutral=1.0), "the portrait rests until there is a face"
    assert cues[1] == Cue(anchor=True)
    assert cues[2] == Cue(weight=0.0), "held"
    assert 0 < cues[3].weight < 1, "eased back"


class Kept(EchoEngine):
    """Keeps the cues that it is given."""

    def driving(self, images, face_boxes, cues=None):
        self.cues = list(cues)
        return super().driving(images, face_boxes, cues)


SCENE = np.broadcast_to(np.linspace(0, 120, 64, dtype=np.uint8)[:, None, None], (64, 64, 3))


def prepared(preparation, engine, at, *, mirror=False, run=0, image=SCENE):
    """The cues of one chunk of two frames."""
    frames = [CameraFrame(at + 0.04 * index, lambda: image) for index in range(2)]
    preparation.driving(frames, mirror=mirror, run=run, recentre=False)
    return engine.cues


def test_movement_is_measured_again_after_a_reset_in_flipped_pictures_and_from_another_camera():
    engine, camera = Kept(64, 64), 255 - SCENE
    preparation = Preparation(engine, FaceFinder(Script(*[(10, 10, 30, 30)] * 12)), lambda message: None)
    first, going_on = (prepared(preparation, engine, at) for at in (0.0, 0.1))
    assert first[0] == Cue(anchor=True) and going_on == [PLAIN, PLAIN]
    flipped = prepared(preparation, engine, 0.2, mirror=True)
    assert flipped[0].anchor and flipped[0].weight < 1 and not flipped[1].anchor, "it eases there"
    other = prepared(preparation, engine, 1.0, mirror=True, image=camera)
    assert other[0].anchor and other[0].weight < 1
    forgotten = prepared(preparation, engine, 2.0, mirror=True, image=camera, run=1)
    assert forgotten[0] == Cue(anchor=True)


def test_a_dark_picture_shows_no_face():
    tracker, image = MeshFaces().tracker(), decode(PRESET_FILES[0].read_bytes())
    assert tracker.follow(image) is not None
    assert tracker.follow((image // 64).astype(np.uint8)) is None, "a mesh that is tracked would stay where it was"
    tracker.close()


def test_a_portrait_is_cropped_around_its_face():
    engine = EchoEngine(64, 64)
    image = np.zeros((100, 300, 3), dtype=np.uint8)
    image[:, 200:] = RED
    found = Portrait(image[:, 200:], (30, 30, 70, 70), ("turned",))
    faces = SimpleNamespace(portrait=lambda given, shape, wanted: (given[0], found))
    prepared = portrait.prepare([image], Wanted(), engine, faces)
    assert (prepared.reference, prepared.remarks) == (RED, ("turned",))
    with pytest.raises(NoFaceError, match="no face"):
        portrait.prepare([image], Wanted(), engine, SimpleNamespace(portrait=lambda *_: None))


# ---- the rest ----


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA"])
def test_pictures_of_every_mode_become_rgb(mode):
    stream = io.BytesIO()
    Image.new("RGB", (40, 20), RED).convert(mode).save(stream, "PNG")
    assert decode(stream.getvalue()).shape == (20, 40, 3)


def test_tokens():
    assert TokenCheck([]).accepts(None)
    check = TokenCheck(["secret-one", "secret-two"])
    assert check.accepts("secret-two")
    for wrong in (None, "", "secret-on", "secret-one ", "geheim\udcff"):
        assert not check.accepts(wrong)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"host": "0.0.0.0"}, "token"),
        ({"port": 70000}, "port"),
        ({"max_sessions": 0}, "max_sessions"),
        ({"tokens": ("short",)}, "8 to 256"),
        ({"idle_seconds": 0}, "idle_seconds"),
        ({"host": ""}, "host is '', which is not an address"),
        ({"host": "[::1]"}, "not an address: write ::1"),
        ({"host": "http://localhost"}, "not an address: give one"),
        ({"allowed_hosts": ("http://x/",)}, "allowed host 'http://x/' must be a name"),
        ({"allowed_hosts": ("live.example:443",)}, "without https://, port"),
        ({"presets": Path("nowhere")}, "presets is nowhere: there is no such folder"),
        ({"presets": Path(__file__)}, "there is no such folder"),
    ],
)
def test_options_that_can_not_be_used_are_refused(values, reason):
    with pytest.raises(InputError, match=reason):
        ServeOptions(**values)


def test_tls_needs_both_files(tmp_path):
    certificate = tmp_path / "cert.pem"
    certificate.write_text("x")
    with pytest.raises(InputError, match="both"):
        ServeOptions(tls_cert=certificate)
    with pytest.raises(InputError, match=r"missing\.pem does not exist"):
        ServeOptions(tls_cert=certificate, tls_key=tmp_path / "missing.pem")


def test_unusable_certificates_are_refused_with_the_options(tmp_path):
    authority = Authority(tmp_path)
    (certificate, key), (_, other) = authority.issue("good"), authority.issue("other")
    _, locked = authority.issue("locked", password=b"secret")
    assert ServeOptions(tls_cert=certificate, tls_key=key).tls_context() is not None
    (tmp_path / "text").write_text("no certificate")
    os.mkfifo(tmp_path / "pipe")
    for files, reason in (
        ((certificate, other), "other.key is not that of the certificate .*good.pem"),
        ((certificate, locked), "locked.key is encrypted: give one without a password"),
        ((tmp_path / "text", key), "cannot be used for https"),
        ((certificate, tmp_path / "text"), "cannot be used for https"),
        ((key, certificate), "cannot be used for https"),
        ((tmp_path / "pipe", key), "certificate .*pipe is not a file"),
        ((certificate, Path("/dev/zero")), "private key /dev/zero is not a file"),
    ):
        with pytest.raises(InputError, match=reason):
            ServeOptions(tls_cert=files[0], tls_key=files[1])


def test_ice_servers():
    turn = IceServer.parse("turn:turn.example:3478,username=me,credential=a=b")
    assert turn.to_dict() == {"urls": "turn:turn.example:3478", "username": "me", "credential": "a=b"}
    for good in ("stun:x", "stun:[2001:db8::1]:3478", "turns:192.0.2.1:443?transport=tcp,username=a,credential=b"):
        assert IceServer.parse(good).urls == good.partition(",")[0]
    for bad in ("http://x", "turn:x,user=y", "", "stun:", "stun:x:", "stun://x", "turn:h:many", "turn:h:123456"):
        with pytest.raises(InputError, match=r"ICE server .* must look like"):
            IceServer.parse(bad)
    for port in ("0", "99999"):
        with pytest.raises(InputError, match=f"has the port {port}: it must be from 1 to 65535"):
            IceServer.parse(f"turn:h:{port},username=a,credential=b")


@pytest.mark.parametrize(
    "values", [{"fps": float("nan")}, {"fps": True}, {"seed": 1.5}, {"mirror": 1}, {"seed": 2**32}]
)
def test_parameters_that_can_not_be_used_are_refused(values):
    with pytest.raises(InputError):
        Parameters().updated(values)


def test_sessions_run_without_the_web():
    code = (
        "import sys\n"
        "for name in ('fastapi', 'uvicorn', 'aiortc', 'av', 'prometheus_client', 'mediapipe'):\n"
        "    sys.modules[name] = None\n"
        "import personalive.live.core.scheduler, personalive.live.core.session, personalive.live.core.model\n"
        "import personalive.testing.echo\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).returncode == 0


PRESET_FILES = sorted(PRESETS.glob("*"))


def test_the_page_has_portraits_of_its_own():
    assert len(PRESET_FILES) >= 6


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_each_preset_is_small_and_has_a_face(path):
    data = path.read_bytes()
    assert len(data) < 100_000
    with closing(decode_all(data)) as images:
        found = MeshFaces().portrait(images, (512, 512), Wanted())
    assert found is not None and found[1].box is not None and found[1].remarks == ()
    left, top, right, bottom = found[1].box
    assert 100 < right - left < 400 and 100 < bottom - top < 400


async def test_the_face_mesh_is_freed_when_the_server_ends():
    faces = MeshFaces()
    portraits = portrait.Portraits(faces)
    seen, _ = await portraits.look(PRESET_FILES[0].read_bytes())
    mesh = faces._mesh
    assert seen and mesh is not None
    portraits.stop()
    await asyncio.to_thread(until, lambda: faces._mesh is None)
    with pytest.raises(ValueError):
        mesh.process(np.zeros((64, 64, 3), np.uint8))


def test_a_driver_is_followed_from_frame_to_frame():
    tracker, image = MeshFaces().tracker(), decode(PRESET_FILES[0].read_bytes())
    boxes = [tracker.follow(np.roll(image, 10 * index, axis=1)) for index in range(5)]
    lefts = [box[0] for box in boxes]
    assert lefts == sorted(lefts) and 20 < lefts[-1] - lefts[0] < 60
    assert tracker.follow(np.zeros_like(image)) is None
    tracker.close()
