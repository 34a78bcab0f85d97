"""The command as its users call it: in its own process, with its exit status, words and files."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import av
import pytest
import torch

from personalive.cli import doctor
from personalive.cli import main as cli
from personalive.extras import MODULES
from personalive.loading import ModelChoice
from personalive.testing.pictures import faceless, moving_face, run_ffmpeg, save_image, save_video

COMMAND = [sys.executable, "-m", "personalive.cli.main"]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """3 frames of a face."""
    return save_video(tmp_path_factory.mktemp("short") / "short.mp4", moving_face(3))


@pytest.fixture
def inputs(small_model_folder, portrait, short):
    return ["--model", small_model_folder, "--ref_image", portrait, "--driving_video", short]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, caplog):
    """Calls the command in this process, which saves seconds: status, what it printed, and its log."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def runner(*arguments):
        caplog.clear()
        try:
            status: str | int | None = cli.main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = left.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err, caplog.records

    yield runner
    signal.signal(signal.SIGTERM, before)


def call(folder, *arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, env=environment(), capture_output=True, text=True
    )


def environment():
    return os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}


def frames_of(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_default_output_is_named_by_time_and_printed(tmp_path, run, inputs):
    status, out, _, records = run("animate", *inputs)
    assert status == 0
    name = out.strip()
    assert re.fullmatch(r"outputs/output_\d{8}_\d{6}\.mp4", name)
    assert frames_of(tmp_path / name) == 3
    said = [record.getMessage() for record in records]
    assert any("loading the model" in line for line in said) and any("done: 3 frames" in line for line in said)
    assert os.listdir(tmp_path / "outputs") == [os.path.basename(name)]


def test_short_flags_and_all_options(tmp_path, run, inputs):
    status, _, _, records = run(
        *("animate", *inputs, "-o", "made.mp4", "-W", 320, "-H", 256, "-L", 2, "--steps", 8, "--seed", 7, "--fps", 30),
        *("--no_audio", "--overwrite", "--crop", "center", "--motion_strength", 0.5, "--face_boxes", "keypoints"),
        *("--side_by_side", "--device", "cpu", "--dtype", "fp32", "--attention", "sdpa", "--keyframe_threshold", 3),
        *("--accelerate", "none", "--low_memory", "--verbose"),
    )
    assert status == 0
    with av.open(str(tmp_path / "made.mp4")) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.frames, video.average_rate) == (960, 256, 2, 30)
        assert "seed 7" in container.metadata["comment"]
    assert "2 of 4 frames used" in [record.getMessage() for record in records]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ref_image", "nowhere.png"], "nowhere.png does not exist"),
        (["--driving_video", "."], "not a file"),
        (["-o", "out.avi"], "must be a file whose name ends with .mp4"),
        (["-o", "there.mp4"], "--overwrite"),
        (["-o", "/proc/nowhere/out.mp4"], "cannot be written"),
        (["--width", "300"], "width is 300"),
        (["--motion_strength", "nan"], "motion_strength is nan"),
        (["--fps", "-5"], "fps is -5.0"),
        (["--seed", "99999999999999999999"], "seed is 99999999999999999999"),
        (["--model", "nowhere"], "nowhere"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_mistakes_are_one_line_and_a_status(tmp_path, run, inputs, arguments, words):
    (tmp_path / "there.mp4").write_bytes(b"precious")
    status, out, _, records = run("animate", *inputs, *arguments)
    assert status == 1 and out == ""
    (error,) = [record for record in records if record.levelname == "ERROR"]
    assert words in error.getMessage() and not error.exc_info
    assert os.listdir(tmp_path) == ["there.mp4"]


def test_mistake_is_found_before_a_model_is_loaded(run, inputs):
    status, _, _, records = run("animate", *inputs, "--max_frames", -1)
    assert status == 1 and not any("loading" in record.getMessage() for record in records)


@pytest.mark.parametrize("arguments", [["--steps", "many"], ["--crop", "left"], ["--unknown"], ["--dtype", "int8"]])
def test_unknown_flags_and_words_show_the_usage(run, inputs, arguments):
    status, _, err, _ = run("animate", *inputs, *arguments)
    assert status == 2 and err.startswith("usage:")


@pytest.mark.slow
def test_error_in_a_process_of_its_own(tmp_path, inputs):
    picture = save_image(tmp_path / "grey.png", faceless())
    done = call(tmp_path, "animate", *inputs, "--ref_image", picture)
    assert done.returncode == 1
    assert "ERROR: no face was found in the reference" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_wants_otherwise(given, expected):
    program = (
        "import os, sys\n"
        "from personalive.cli import main as cli\n"
        "cli.VERBS['verify'] = lambda options: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules) or 0\n"
        "cli.main(['verify', 'file'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [expected, "False"], "it must be set before PyTorch is loaded"


def test_verbose_shows_where_an_error_came_from(run, inputs):
    status, _, _, records = run("animate", *inputs, "--width", "300", "--verbose")
    assert status == 1 and records[-1].exc_info


def test_without_a_gpu_the_demo_model_is_chosen_and_said(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ModelChoice().resolved_source()[0] == "demo"
    assert "No GPU was found" in ModelChoice().resolved_source()[1]
    assert ModelChoice(model="personalive").resolved_source() == ("personalive", "")
    monkeypatch.setattr("personalive.loading.ModelChoice.resolved_device", lambda _: torch.device("cuda"))
    assert ModelChoice().resolved_source() == ("personalive", "")


@pytest.mark.parametrize(("dtype", "said"), [("fp16", 1), ("fp32", 0)])
def test_fp16_on_a_cpu_is_said_to_be_slow_once_and_what_to_use_instead(tmp_path, run, inputs, dtype, said):
    arguments = ["-L", 1, "--dtype", dtype, "--device", "cpu", "-o", tmp_path / "a.mp4", "--face_boxes", "keypoints"]
    status, _, _, records = run("animate", *inputs, *arguments)
    warnings = [record.message for record in records if "fp16" in record.message]
    assert status == 0 and len(warnings) == said
    assert all("slow" in each and "choose fp32" in each for each in warnings)


def long_driver(folder):
    clip = save_video(folder / "clip.mp4", moving_face(50))
    driver = folder / "long.mp4"
    run_ffmpeg("-stream_loop", "19", "-i", str(clip), "-c", "copy", str(driver))
    return driver


@pytest.mark.parametrize(
    ("number", "status", "output"),
    [
        (signal.SIGINT, 130, "made.mp4"),
        (signal.SIGTERM, 143, "new/frames/%05d.png"),
    ],
)
@pytest.mark.slow
def test_signals_stop_and_clean_up(tmp_path, inputs, number, status, output):
    driver = long_driver(tmp_path)
    (tmp_path / "work").mkdir()
    arguments = ["animate", *inputs, "--driving_video", driver, "-L", "0", "-o", output]
    running = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=tmp_path / "work",
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        # Who runs the tests in the background has made them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    said = [running.stderr.readline()]
    while "animating" not in said[-1]:
        said.append(running.stderr.readline())
        assert said[-1], "it ended"
    assert list((tmp_path / "work").rglob("*.part*")), "it is in the middle of a file"
    running.send_signal(number)
    said.append(running.communicate()[1])
    assert running.returncode == status
    assert os.listdir(tmp_path / "work") == []
    assert "Traceback" not in "".join(said)
    assert said[-1].splitlines()[-1] == "ERROR: stopped; nothing unfinished was left behind"


@pytest.mark.parametrize("start", ["-m personalive", "-c import sys; from {} import main; sys.exit(main())"])
def test_ctrl_c_while_the_command_is_imported_shows_no_traceback(tmp_path, start):
    (tmp_path / "pydantic.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["personalive"].partition(":")
    assert function == "main"
    done = subprocess.run(
        [sys.executable, *start.format(module).split(" ", 1), "--help"],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
def test_progress_bar_on_a_terminal(tmp_path, inputs):
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    done = subprocess.Popen(
        [*COMMAND, "animate", *map(str, inputs), "-o", "made.mp4"],
        cwd=tmp_path,
        env=environment(),
        stderr=terminal,
        stdout=subprocess.PIPE,
    )
    done.communicate()
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert done.returncode == 0
    assert b"3/3" in shown and b"frame/s" in shown


FOUND = ("PyTorch", "GPU", "attention", "ffmpeg", "mediapipe", "cache", "weights", "will use")


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_doctor_says_what_was_found_and_what_will_be_used(run, full):
    status, out, _, _ = run("doctor", "--device", "cpu", *full)
    assert status == 0
    for word in FOUND:
        assert re.search(rf"^{word} +\S", out, re.MULTILINE), word
    assert "on cpu in fp32" in out and torch.__version__ in out
    assert ("not tried" in out) != bool(full), "what was only looked up is called that"


@pytest.mark.parametrize("full", [[], ["--full"]])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nofolder"], "there is no folder .*nofolder"),
        (["--accumulate", "fp16"], "accumulate fp16 needs an NVIDIA GPU, not cpu"),
        (["--quantize", "fp8"], "quantize fp8 needs an NVIDIA GPU"),
        (["--accelerate", "onnx", "--attention", "sdpa"], "accelerate onnx runs what is in the files"),
        (
            ["--accelerate", "graphs", "--onnx", "nofolder"],
            "onnx names a folder of ONNX files, but",
        ),
    ],
)
def test_doctor_refuses_what_other_verbs_refuse(run, arguments, said, full):
    status, out, _, _ = run("doctor", "--device", "cpu", *arguments, *full)
    (line,) = re.findall(r"^will use +(.*)$", out, re.MULTILINE)
    assert status == 1 and re.match(f"nothing: {said}", line)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--onnx", "nofolder"], "nofolder is no folder with a model in ONNX"),
        (["--accelerate", "onnx", "--dtype", "bf16"], "accelerate onnx computes in fp32 or fp16"),
        (["--model", "."], "weights files are missing"),
    ],
)
def test_full_doctor_refuses_what_only_a_look_shows(run, arguments, said):
    status, out, _, _ = run("doctor", "--device", "cpu", *arguments, "--full")
    assert status == 1 and re.search(f"^will use +nothing: .*{said}", out, re.MULTILINE)


def test_doctor_refuses_a_device_that_does_not_exist(run):
    status, out, _, records = run("doctor", "--device", "bla")
    assert status == 1 and out == "" and "device is 'bla'" in records[-1].getMessage()


def test_serve_refuses_a_model_that_is_not_there_before_it_listens(run, monkeypatch):
    monkeypatch.setattr("socket.socket.bind", lambda *_: pytest.fail("it listens"))
    status, _, _, records = run("serve", "--model", "nofolder", "--device", "cpu")
    assert status == 1 and "there is no folder" in records[-1].getMessage()


@pytest.mark.parametrize("verb", [["doctor"], ["--help"], ["animate", "--help"], ["serve", "--help"]])
def test_what_answers_at_once_loads_no_large_library(tmp_path, verb):
    """Their import takes seconds. `-X importtime` lists what was imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *verb],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pydantic" in imported and not imported & {
        "torch",
        "numpy",
        "mediapipe",
        "av",
        "huggingface_hub.file_download",
    }


def an_openvino(folder, monkeypatch, code):
    """A package openvino with this code, imported in the place of one that is installed; None: an empty folder."""
    (folder / "openvino").mkdir(parents=True)
    if code is not None:
        (folder / "openvino" / "__init__.py").write_text(code)
    (folder / "openvino-2026.4.1.dist-info").mkdir()
    (folder / "openvino-2026.4.1.dist-info" / "METADATA").write_text("Name: openvino\nVersion: 2026.4.1\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "openvino", None)  # so that what was there comes back
    del sys.modules["openvino"]
    monkeypatch.setitem(MODULES, "onnx", ())  # as if it were installed


def not_there(package):
    raise PackageNotFoundError(package)


ONLY_LOOKED_UP = "raise ImportError('it takes a second')"
WORKING = (
    "def get_version():\n    return '2026.4.1'\nclass Core:\n    def get_property(self, *names):\n        return 'CPU'"
)


@pytest.mark.parametrize(
    ("arguments", "installed", "words"),
    [
        ([], False, ["not installed", 'faster here: pip install "personalive[openvino]"']),
        (["--accelerate", "graphs"], False, ["not installed"]),
        ([], True, ["2026.4.1", "will be used for files"]),
        (["--accelerate", "onnx"], True, ["2026.4.1", "will be used"]),
        (["--accelerate", "graphs"], True, ["2026.4.1", "will not be used"]),
    ],
)
@pytest.mark.parametrize("full", [[], ["--full"]])
def test_doctor_says_whether_openvino_is_there_and_will_be_used(
    tmp_path, monkeypatch, run, arguments, installed, words, full
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for module in ("personalive.cli.doctor", "personalive.loading"):
        monkeypatch.setattr(f"{module}.missing", lambda extra: [] if installed else ["openvino"])
    an_openvino(tmp_path / "lib", monkeypatch, WORKING if full else ONLY_LOOKED_UP)
    if not installed:
        monkeypatch.setattr("personalive.cli.doctor.version", not_there)
    status, out, _, _ = run("doctor", "--device", "cpu", *arguments, *full)
    (line,) = re.findall(r"^OpenVINO +(.*)$", out, re.MULTILINE)
    assert status == 0
    for word in words:
        assert word in line
    assert ("faster here" in line) == ("--accelerate" not in arguments)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libopenvino.so: cannot open')", "ImportError: libopenvino.so: cannot open"),
        ("raise RuntimeError('no such plugin')", "RuntimeError: no such plugin"),
        ("", "AttributeError"),
    ],
)
def test_doctor_says_what_is_wrong_with_an_openvino_that_cannot_be_used(tmp_path, monkeypatch, run, code, words):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    an_openvino(tmp_path / "lib", monkeypatch, code)
    status, out, _, _ = run("doctor", "--device", "cpu", "--full")
    (line,) = re.findall(r"^OpenVINO +(.*)$", out, re.MULTILINE)
    assert status == 0
    assert "the installed openvino cannot be used" in line and words in line and line.endswith("or remove it")


@pytest.mark.parametrize(("code", "words"), [(None, "not installed"), ("", "of unknown version")])
def test_doctor_knows_an_openvino_that_was_left_by_an_installation(tmp_path, monkeypatch, run, code, words):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    an_openvino(tmp_path / "lib", monkeypatch, code)
    monkeypatch.setattr("personalive.cli.doctor.version", not_there)
    _, out, _, _ = run("doctor", "--device", "cpu")
    assert re.findall(rf"^OpenVINO +{words}", out, re.MULTILINE), out


def stand_in(folder, name, text):
    """A program in a folder of its own for PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return str(folder)


def a_torch(folder, version):
    """A package torch of which only version.py works, as after an installation that broke off."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(
        "raise ImportError('libtorch_cpu.so: cannot open shared object file')"
    )
    (folder / "torch" / "version.py").write_text(version)
    return str(folder)


def test_doctor_knows_gpus_without_pytorch_and_finds_a_broken_one_when_it_tries(tmp_path):
    gpus = ("H100 80GB HBM3, 80000, 81559", "GB10, [N/A], [N/A]", "GeForce RTX 4070, 900, 12282")
    rows = "; ".join(f"echo 'NVIDIA {gpu}'" for gpu in gpus)
    here = environment() | {"PATH": f"{stand_in(tmp_path / 'bin', 'nvidia-smi', rows)}:{os.environ['PATH']}"}
    here["PYTHONPATH"] = a_torch(tmp_path / "lib", "__version__, cuda = '9.9', '12.4'") + ":" + here["PYTHONPATH"]

    def doctor(*arguments, **more):
        return subprocess.run(
            [*COMMAND, "doctor", *arguments], cwd=tmp_path, env=here | more, capture_output=True, text=True
        )

    quick = doctor()
    assert quick.returncode == 0
    for line in (
        "PyTorch      9.9 (CUDA 12.4)",
        "0: NVIDIA H100 80GB HBM3, 78.1 of 79.6 GiB free",
        "1: NVIDIA GB10, ?",
        "2: NVIDIA GeForce RTX 4070, 0.9 of 12.0 GiB free; --accumulate fp16 may be faster on it",
    ):
        assert line in quick.stdout
    assert quick.stdout.count("--accumulate") == 1
    assert "model personalive on cuda in fp16" in quick.stdout and "not tried" in quick.stdout
    hidden = doctor(CUDA_VISIBLE_DEVICES="").stdout
    assert "hidden by CUDA_VISIBLE_DEVICES" in hidden and "model demo on cpu in fp32" in hidden
    full = doctor("--full")
    assert full.returncode == 1
    assert "PyTorch      cannot be used: ImportError: libtorch_cpu.so: cannot open" in full.stdout
    (tmp_path / "lib" / "torch" / "version.py").unlink()
    damaged = doctor()
    assert damaged.returncode == 1 and "PyTorch      damaged" in damaged.stdout


def test_a_reader_that_has_seen_enough_sees_no_traceback(tmp_path):
    command = f"{sys.executable} -m personalive.cli.main doctor | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout.startswith("personalive") and done.stderr == ""


@pytest.mark.parametrize("verb", [[], ["animate"], ["serve"], ["download"], ["doctor"]])
def test_help(run, verb):
    status, out, _, _ = run(*verb, "--help")
    assert status == 0 and out.startswith("usage: personalive")


@pytest.mark.parametrize(
    ("gpu", "advised"),
    [
        ("NVIDIA H200", True),
        ("NVIDIA H100 80GB HBM3", True),
        ("NVIDIA GH200 480GB", True),
        ("NVIDIA H20", True),
        ("NVIDIA A100-SXM4-80GB", False),
        ("NVIDIA GeForce RTX 4090", False),
    ],
)
def test_doctor_names_what_a_hopper_gpu_lacks(gpu, advised, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "13.0" if name != "cuda-bindings" else doctor.MISSING)
    assert ("cuda-bindings" in doctor._advice(gpu)) is advised
    monkeypatch.setattr(doctor, "_version", lambda name: "13.0")
    assert "cuda-bindings" not in doctor._advice(gpu)
