"""Videos of every kind are read upright, in time and within bounds; the result is a complete MP4 or none."""

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalive.errors import InputError, OutputError
from personalive.media.encoding import VideoFormat
from personalive.media.images import MAX_SIDE
from personalive.media.sound import Sound
from personalive.media.video_reader import probe, read_frames, resample
from personalive.media.video_writer import VideoWriter
from personalive.testing.pictures import numbered, read_number, run_ffmpeg, save_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """50 numbered frames at 25 fps with sound."""
    return save_video(tmp_path_factory.mktemp("video") / "clip.mp4", numbered(50), sound=True)


def numbers(path, rate=None):
    return [read_number(frame) for frame in read_frames(probe(path), rate and Fraction(rate))]


CODECS = {
    "mp4": (),
    "mov": (),
    "mkv": (),
    "ts": (),
    "avi": ("-c:v", "mpeg4", "-q:v", "3", "-c:a", "mp3"),
    "webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"),
}


@pytest.mark.parametrize("suffix", CODECS)
def test_containers(tmp_path, clip, suffix):
    path = tmp_path / f"clip.{suffix}"
    run_ffmpeg("-i", str(clip), *(CODECS[suffix] or ("-c", "copy")), str(path))
    info = probe(path)
    assert (info.width, info.height, info.rate) == (320, 240, 25)
    assert info.sound is not None
    assert numbers(path) == ([0] if suffix == "avi" else []) + list(range(50)), "ffmpeg's AVI begins with a pause"
    assert info.frames_at(info.rate) == len(numbers(path))


def test_rate_that_is_no_whole_number(tmp_path):
    path = save_video(tmp_path / "clip.mkv", numbered(40), Fraction(30000, 1001))
    assert probe(path).rate == Fraction(30000, 1001)
    assert numbers(path) == list(range(40))


@pytest.mark.parametrize(("rate", "expected"), [(50, [n // 2 for n in range(100)]), (5, list(range(2, 50, 5)))])
def test_resampling_keeps_the_duration(clip, rate, expected):
    assert numbers(clip, rate) == expected


def test_varying_frame_rate_is_put_on_an_even_clock(tmp_path):
    path = tmp_path / "varying.mp4"
    clip = save_video(tmp_path / "clip.mp4", numbered(60))
    run_ffmpeg("-i", str(clip), "-vf", "select='lt(n,20)+not(mod(n,4))'", "-fps_mode", "vfr", str(path))
    shown = [n if n < 20 else n - n % 4 for n in range(60)]
    assert numbers(path, 25) == shown[: len(numbers(path, 25))]
    assert abs(len(numbers(path, 25)) - 60) <= 3


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_metadata_is_applied(tmp_path, angle):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255
    save_video(tmp_path / "flat.mp4", [picture] * 3)
    run_ffmpeg("-display_rotation", str(angle), "-i", str(tmp_path / "flat.mp4"), "-c", "copy", str(tmp_path / "r.mp4"))
    raw = tmp_path / "upright.png"
    run_ffmpeg("-i", str(tmp_path / "r.mp4"), "-frames:v", "1", str(raw))
    from PIL import Image

    expected = np.asarray(Image.open(raw).convert("RGB")).astype(int)
    frame = next(read_frames(probe(tmp_path / "r.mp4")))
    assert frame.shape == expected.shape
    assert np.abs(frame - expected).mean() < 3


def test_pixels_that_are_not_square(tmp_path):
    wide = save_video(tmp_path / "wide.mp4", numbered(3), options=("-vf", "setsar=3/2", "-pix_fmt", "yuv420p"))
    info = probe(wide)
    assert (info.width, info.height) == (480, 240)
    assert next(read_frames(info)).shape == (240, 480, 3)


@pytest.mark.parametrize(("width", "height"), [(321, 239), (17, 301)])
def test_odd_sizes(tmp_path, width, height):
    path = save_video(tmp_path / "odd.mp4", numbered(3, width, height), options=("-pix_fmt", "yuv444p"))
    assert next(read_frames(probe(path))).shape == (height, width, 3)


@pytest.mark.slow
def test_8k_is_scaled(tmp_path):
    path = save_video(tmp_path / "8k.mp4", numbered(2, 7680, 4320))
    assert [frame.shape for frame in read_frames(probe(path))] == [(1152, MAX_SIDE, 3)] * 2


def test_one_frame(tmp_path):
    path = save_video(tmp_path / "one.mp4", numbered(1))
    assert probe(path).frames_at(Fraction(25)) == 1
    assert len(numbers(path)) == 1


def damaged(kind, folder, clip):
    """A file of each kind of damage, and the reason that the message must give."""
    path = folder / "damaged.mp4"
    whole = clip.read_bytes()
    if kind == "missing":
        return folder / "nowhere.mp4", "does not exist"
    if kind == "folder":
        return folder, "not a file"
    if kind == "empty":
        path.write_bytes(b"")
        return path, "empty"
    if kind == "text":
        path.write_text("hello, this is no video" * 100)
        return path, "not a video"
    if kind == "cut, index lost":
        path.write_bytes(whole[: len(whole) // 2])
        return path, "cut off"
    if kind == "cut, index kept":
        run_ffmpeg("-i", str(clip), "-c", "copy", "-movflags", "+faststart", str(path))
        path.write_bytes(path.read_bytes()[: len(whole) // 2])
        return path, "cut off: .* of its 50 frames"
    if kind == "cut, mkv":
        path = folder / "cut.mkv"
        run_ffmpeg("-i", str(clip), "-c", "copy", str(path))
        path.write_bytes(path.read_bytes()[: len(whole) // 2])
        return path, "cut off: .* of its 2.0 seconds"
    if kind == "sound only":
        run_ffmpeg("-i", str(clip), "-vn", "-c", "copy", str(path))
        return path, "no video frames: it holds audio"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    ["missing", "folder", "empty", "text", "cut, index lost", "cut, index kept", "cut, mkv", "sound only"],
)
def test_damaged_files_are_refused_with_the_reason(tmp_path, clip, kind):
    path, reason = damaged(kind, tmp_path, clip)
    with pytest.raises(InputError, match=reason):
        probe(path)


def test_video_without_frames(tmp_path, clip):
    path = tmp_path / "none.mp4"
    run_ffmpeg("-i", str(clip), "-c:v", "libx264", "-frames:v", "0", "-c:a", "copy", str(path))
    with pytest.raises(InputError, match=r"no .*frames"):
        probe(path)


def test_video_whose_payload_is_garbage(tmp_path, clip):
    whole = bytearray(clip.read_bytes())
    start = whole.find(b"mdat") + 8
    whole[start : start + 30_000] = bytes(np.random.default_rng(0).integers(0, 256, 30_000, dtype=np.uint8))
    path = tmp_path / "garbage.mp4"
    path.write_bytes(whole)
    try:
        frames = list(read_frames(probe(path)))
    except InputError as error:
        assert "can be decoded" in str(error) or "damaged" in str(error)
    else:
        assert len(frames) == 50, "what can be shown keeps its time"


def test_cover_picture_of_a_song_is_no_video(tmp_path, clip):
    path = tmp_path / "song.mp4"
    run_ffmpeg("-i", str(clip), "-frames:v", "1", str(tmp_path / "cover.jpg"))
    run_ffmpeg(
        *("-i", str(clip), "-i", str(tmp_path / "cover.jpg"), "-map", "0:a", "-map", "1:v", "-c", "copy"),
        *("-disposition:v", "attached_pic", str(path)),
    )
    with pytest.raises(InputError, match="no video frames"):
        probe(path)


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
    ids=["hls", "concat", "sdp"],
)
def test_playlists_open_no_other_files(tmp_path, clip, playlist):
    run_ffmpeg("-i", str(clip), "-c", "copy", str(tmp_path / "secret.ts"))
    path = tmp_path / "list.mp4"
    path.write_text(playlist.format("secret.ts"))
    with pytest.raises(InputError, match="not a video"):
        probe(path)


TIMES = st.lists(st.integers(1, 500), min_size=0, max_size=30)


@given(gaps=TIMES, rate=st.fractions(Fraction(1), Fraction(120)), tail=st.integers(1, 500))
def test_resampling_shows_each_frame_in_its_time(gaps, rate, tail):
    times = [Fraction(sum(gaps[:n]), 100) for n in range(len(gaps) + 1)]
    duration = times[-1] + Fraction(tail, 100)
    frames = [np.full((1, 1, 3), n, np.uint8) for n in range(len(times))]
    shown = [int(frame[0, 0, 0]) for frame in resample(zip(times, frames, strict=True), rate, duration)]
    assert abs(len(shown) - max(1, duration * rate)) <= Fraction(1, 2) or len(shown) == 1
    for slot, number in enumerate(shown[1:], 1):
        middle = (slot + Fraction(1, 2)) / rate
        assert times[number] <= middle and (number + 1 == len(times) or middle <= times[number + 1])


@given(
    count=st.integers(1, 60), rate=st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(24)])
)
def test_constant_rate_gives_each_frame_once_despite_coarse_time_stamps(count, rate):
    times = [Fraction(round(n / rate * 1000), 1000) for n in range(count)]
    frames = [np.full((1, 1, 3), n, np.uint8) for n in range(count)]
    shown = resample(zip(times, frames, strict=True), rate, times[-1] + 1 / rate)
    assert [int(frame[0, 0, 0]) for frame in shown] == list(range(count))


def test_reading_a_long_video_takes_no_more_memory(tmp_path):
    """The peak of a process that reads 800 frames is that of one that reads 100."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from personalive.media.video_reader import probe, read_frames\n"
        "print(sum(1 for _ in read_frames(probe(Path(sys.argv[1])))))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (100, 800):
        path = tmp_path / f"{count}.mp4"
        pattern = ("-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25", "-frames:v", str(count))
        run_ffmpeg(*pattern, "-preset", "ultrafast", str(path))
        result = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        frames, peak = map(int, result.stdout.split())
        assert frames == count
        peaks.append(peak)
    assert peaks[1] <= peaks[0] * 1.05 + 4096


FORMAT = VideoFormat(128, 64, Fraction(25), "Synthetic video (model demo, seed 42)")


def write(path, frames, **options):
    with VideoWriter(path, FORMAT, **options) as writer:
        writer.write(np.stack(frames))
        writer.finish()


def streams_of(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        video, sound = container.streams.video[0], next(iter(container.streams.audio), None)
        picture = (video.codec_context.name, video.codec_context.pix_fmt, video.average_rate)
        tone = sound and (sound.codec_context.name, float(sound.duration * sound.time_base))
        return frames, picture, tone, dict(container.metadata)


def test_written_video_is_what_players_expect(tmp_path):
    path = tmp_path / "out.mp4"
    write(path, numbered(30, 128, 64))
    frames, video, sound, metadata = streams_of(path)
    assert [read_number(frame) for frame in frames] == list(range(30))
    assert video == ("h264", "yuv420p", 25)
    assert sound is None
    assert metadata["comment"] == FORMAT.comment
    content = path.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat"), "the index comes first"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_colours_survive(tmp_path):
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, :64], picture[:, 64:] = (200, 40, 90), (20, 180, 60)
    write(tmp_path / "out.mp4", [picture] * 3)
    frame = next(read_frames(probe(tmp_path / "out.mp4"))).astype(int)
    assert np.abs(frame[32, 20] - (200, 40, 90)).max() <= 4
    assert np.abs(frame[32, 100] - (20, 180, 60)).max() <= 4


def beep_and_flash(path, *options):
    """White from 1.0 s on, and a tone from 1.0 s on."""
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=black:s=64x64:r=25:d=2,geq=lum='if(gte(T,1),235,16)':cb=128:cr=128"),
        *("-f", "lavfi", "-i", "sine=frequency=1000:duration=2:sample_rate=48000,volume='if(gte(t,1),1,0)':eval=frame"),
        *options,
        str(path),
    )
    return path


def sound_begins(path):
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.abs(frame.to_ndarray().astype(float))
            loud = (
                loud.max(axis=0) if frame.format.is_planar else loud.reshape(-1, frame.layout.nb_channels).max(axis=1)
            )
            scale = 1.0 if "flt" in frame.format.name else 32768.0
            where = np.flatnonzero(loud / scale > 0.02)
            if len(where):
                return float(frame.time) + where[0] / frame.sample_rate
    raise AssertionError("silent")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", ("-c:a", "aac")),
        ("mkv", ("-c:a", "aac")),
        ("ts", ("-c:a", "aac")),
        ("avi", ("-c:v", "mpeg4", "-c:a", "mp3")),
        ("webm", ("-c:v", "libvpx", "-c:a", "libopus")),
        ("mkv", ("-c:a", "flac")),
        ("mov", ("-c:a", "pcm_s16le")),
    ],
)
def test_sound_stays_in_time_with_the_picture(tmp_path, suffix, options):
    source = probe(beep_and_flash(tmp_path / f"driver.{suffix}", *options))
    path = tmp_path / "out.mp4"
    frames = [np.full((64, 128, 3), int(frame.mean()), np.uint8) for frame in read_frames(source)]
    write(path, frames, sound=Sound(source))
    shown, _, (codec, seconds), _ = streams_of(path)
    flash = next(n for n, frame in enumerate(shown) if frame.mean() > 128) / 25
    assert flash == pytest.approx(1.0, abs=0.041)
    assert sound_begins(path) == pytest.approx(flash, abs=0.06)
    assert seconds == pytest.approx(len(shown) / 25, abs=0.1)
    assert codec == ("mp3float" if "mp3" in options else "aac")


def test_sound_that_begins_long_before_the_picture(tmp_path):
    driver = beep_and_flash(tmp_path / "driver.mkv", "-c:a", "flac")
    late = tmp_path / "late.mkv"
    # the picture's first 0.6 s are gone, the sound's are not
    run_ffmpeg(
        *("-ss", "0.6", "-i", str(driver), "-i", str(driver), "-map", "0:v", "-map", "1:a"),
        *("-vf", "setpts=PTS+0.6/TB", "-fps_mode", "passthrough", "-c:a", "copy", str(late)),
    )
    source = probe(late)
    assert float(source.start) == pytest.approx(0.6, abs=0.05)
    frames = [np.full((64, 128, 3), int(frame.mean()), np.uint8) for frame in read_frames(source)]
    write(tmp_path / "out.mp4", frames, sound=Sound(source))
    shown, *_ = streams_of(tmp_path / "out.mp4")
    flash = next(n for n, frame in enumerate(shown) if frame.mean() > 128) / 25
    assert flash == pytest.approx(0.4, abs=0.05)
    assert sound_begins(tmp_path / "out.mp4") == pytest.approx(flash, abs=0.06)


def test_sound_ends_with_a_shorter_picture(tmp_path, clip):
    write(tmp_path / "out.mp4", numbered(10, 128, 64), sound=Sound(probe(clip)))
    frames, _, (_, seconds), _ = streams_of(tmp_path / "out.mp4")
    assert len(frames) == 10
    assert seconds == pytest.approx(0.4, abs=0.05)


def test_leaving_early_removes_everything(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "out.mp4", FORMAT) as writer:
        writer.write(np.stack(numbered(8, 128, 64)))
        assert len(os.listdir(tmp_path)) == 1
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


WRITING = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from personalive.media.encoding import VideoFormat
from personalive.media.video_writer import VideoWriter
print("begins", flush=True)
with VideoWriter(Path(sys.argv[1]), VideoFormat(128, 64, Fraction(25), "test")) as writer:
    print("writes", flush=True)
    while True:
        writer.write(np.zeros((4, 64, 128, 3), np.uint8))
"""


def start_writing(path, until):
    """A process that writes a video without end, once it says that it is so far."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Who runs the tests in the background has made them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.stdout.readline().strip() != until:
        pass
    return process


def test_what_a_killed_run_left_is_removed_by_the_next_unless_it_is_held(tmp_path):
    (tmp_path / "holiday.part-1.mp4").write_bytes(b"precious")
    killed, running = (start_writing(tmp_path / f"{name}.mp4", "writes") for name in ("killed", "running"))
    killed.kill()
    killed.wait()
    assert sorted(name.partition(".part-")[0] for name in os.listdir(tmp_path)) == ["holiday", "killed", "running"]
    for _ in range(200):  # its ffmpeg ends when it sees that no more frames come
        write(tmp_path / "next.mp4", numbered(4, 128, 64), overwrite=True)
        if not (left := [name for name in os.listdir(tmp_path) if name.startswith("killed")]):
            break
        time.sleep(0.1)
    assert not left
    assert [name for name in os.listdir(tmp_path) if name.startswith("running.part-")], "somebody holds it"
    running.send_signal(signal.SIGINT)
    running.wait()
    assert sorted(os.listdir(tmp_path)) == ["holiday.part-1.mp4", "next.mp4"]


@pytest.mark.parametrize("milliseconds", range(0, 30, 3))
def test_a_signal_at_any_moment_leaves_nothing(tmp_path, milliseconds):
    process = start_writing(tmp_path / "out.mp4", "begins")
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGINT)
    assert process.wait() == -signal.SIGINT
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_written_through(tmp_path, exists):
    target, link = tmp_path / "elsewhere" / "file.bin", tmp_path / "links" / "out.mp4"
    target.parent.mkdir()
    link.parent.mkdir()
    link.symlink_to("../elsewhere/file.bin")
    if exists:
        target.write_bytes(b"precious")
        with pytest.raises(OutputError, match="--overwrite"):
            write(link, numbered(4, 128, 64))
        assert target.read_bytes() == b"precious"
    write(link, numbered(4, 128, 64), overwrite=exists)
    assert link.is_symlink() and len(streams_of(target)[0]) == 4
    assert [os.listdir(folder.parent) for folder in (link, target)] == [["out.mp4"], ["file.bin"]]


def test_existing_file_is_kept_unless_allowed(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        write(path, numbered(4, 128, 64))
    assert path.read_bytes() == b"precious"
    write(path, numbered(4, 128, 64), overwrite=True)
    assert len(streams_of(path)[0]) == 4


def test_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out.mp4"
    with pytest.raises(OutputError, match="exists"), VideoWriter(path, FORMAT) as writer:
        writer.write(np.stack(numbered(4, 128, 64)))
        path.write_bytes(b"precious")
        writer.finish()
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_missing_folder_is_made(tmp_path):
    write(tmp_path / "a" / "b" / "out.mp4", numbered(4, 128, 64))
    assert (tmp_path / "a" / "b" / "out.mp4").is_file()


@pytest.mark.parametrize("name", ["out.avi", "out", "folder.mp4", "file.txt/out.mp4", "\0.mp4", "x" * 300 + ".mp4"])
def test_impossible_outputs_are_refused(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"\.mp4|folder|cannot be written"):
        VideoWriter(tmp_path / name, FORMAT)
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "folder.mp4"]


def test_missing_ffmpeg_is_said(tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", missing)
    with pytest.raises(OutputError, match="no ffmpeg was found"):
        write(tmp_path / "out.mp4", numbered(4, 128, 64))
    assert os.listdir(tmp_path) == []


def test_ffmpeg_that_cannot_be_started_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(OutputError, match="ffmpeg cannot be started"):
            VideoWriter(tmp_path / "out.mp4", FORMAT)
    gc.collect()
    assert os.listdir(tmp_path) == [] and set(os.listdir("/proc/self/fd")) == before


def test_the_result_has_the_permissions_of_new_files_and_the_process_s_mask_is_left_alone(tmp_path, clip):
    """Another thread that makes files meanwhile must not find another mask, so not even for a moment."""
    program = (
        "import os, sys, pathlib, fractions\n"
        "os.umask(0o027)\n"
        "from personalive.media.video_reader import probe\n"
        "from personalive.media.sound import Sound\n"
        "from personalive.media.encoding import VideoFormat\nfrom personalive.media.video_writer import VideoWriter\n"
        "import numpy\n"
        "os.umask = lambda mask: os._exit(7)\n"
        "video = VideoFormat(128, 64, fractions.Fraction(25), 'x')\n"
        "with VideoWriter(pathlib.Path(sys.argv[1]), video, sound=Sound(probe(pathlib.Path(sys.argv[2])))) as writer:\n"
        "    writer.write(numpy.zeros((10, 64, 128, 3), numpy.uint8))\n"
        "    writer.finish()\n"
    )
    path = tmp_path / "out.mp4"
    result = subprocess.run([sys.executable, "-c", program, str(path), str(clip)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr or "it changed the mask"
    assert path.stat().st_mode & 0o777 == 0o640


def test_folder_that_may_not_be_written(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write("/proc" / tmp_path.relative_to("/") / "out.mp4", numbered(4, 128, 64))


def write_noise(path, sound=None):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 128, 3), dtype=np.uint8)
    with VideoWriter(path, FORMAT, sound=sound) as writer:
        for _ in range(5):
            writer.write(noise)
        writer.finish()


@pytest.mark.parametrize("limit", [1_000, 60_000])
def test_limit_on_file_size_leaves_nothing(tmp_path, limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OutputError, match="no room"):
            write_noise(tmp_path / "out.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("room", "sound"), [(0.1, False), (0.9, False), (1.5, True)])
def test_disk_full_leaves_nothing(tmp_path, clip, room, sound):
    """Full while encoding, and while the sound is added, which takes as much room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    write_noise(tmp_path / "needs.mp4")
    size = int((tmp_path / "needs.mp4").stat().st_size * room)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small disk; the limit on file sizes stands in for it")
    try:
        with pytest.raises(OutputError, match="no room"):
            write_noise(disk / "out.mp4", Sound(probe(clip)) if sound else None)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)
