"""The package as users install it: built, put into a new environment with what it declares, and used from any folder.

Needs a package index. The dependencies come in the versions of requirements.txt.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from personalive import __version__
from personalive.media.video_reader import probe

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def environment_of(home: Path) -> dict[str, str]:
    """Of a user who has no checkout in the way."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(home)}


def run(*command: str | Path, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    environment = environment_of(folder)
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the source distribution as for a release."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment that has the package without extras."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install(environment / "bin", str(wheel))
    return environment / "bin"


def install(programs: Path, requirement: str) -> None:
    pip: list[str | Path] = [
        programs / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / "requirements.txt",
    ]
    subprocess.run([*pip, requirement], check=True)


def test_what_is_compiled_on_a_gpu_comes_along(wheel: Path) -> None:
    assert "personalive/accel/ops/cuda/bank_attention.cu" in zipfile.ZipFile(wheel).namelist()


def test_the_command_animates_the_demo_from_any_folder(programs: Path, tmp_path: Path) -> None:
    done = run(programs / "personalive", "animate", "--max_frames", "8", "--device", "cpu", folder=tmp_path)
    video = probe(tmp_path / done.stdout.strip())
    assert (video.width, video.height, video.frames_at(video.rate)) == (256, 256, 8)
    assert 'pip install "personalive[faces]"' in done.stderr


def test_python_animates_the_demo_from_any_folder(programs: Path, tmp_path: Path) -> None:
    program = (
        "import personalive; from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT\n"
        "model = personalive.PersonaLive.from_pretrained('demo', device='cpu')\n"
        "options = personalive.AnimateOptions(max_frames=4)\n"
        "for progress in personalive.animate(model, DEMO_PORTRAIT, DEMO_DRIVER, 'result.mp4', options): pass\n"
        "print(personalive.__version__, progress.frames_done)"
    )
    done = run(programs / "python", "-c", program, folder=tmp_path)
    assert done.stdout.split() == [__version__, "4"]
    assert probe(tmp_path / "result.mp4").width == 256


def test_the_live_server_needs_its_extra_and_runs_with_it(programs: Path, wheel: Path, tmp_path: Path) -> None:
    refused = run(programs / "personalive", "serve", folder=tmp_path, status=1)
    assert 'pip install "personalive[live]"' in refused.stderr and "Traceback" not in refused.stderr
    install(programs, f"{wheel}[live]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [
        programs / "personalive",
        "serve",
        "--port",
        str(port),
        "--model",
        "demo",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, cwd=tmp_path, env=environment_of(tmp_path)) as server:
        try:
            while (state := status(url)) != "loaded":
                assert server.poll() is None and state != "error"
                time.sleep(0.5)
            with urllib.request.urlopen(url) as page:
                assert "<!doctype html>" in page.read().decode()
        finally:
            server.terminate()


def status(url: str) -> str | None:
    """What the server says of its model; None while it does not answer yet."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/pipeline/status") as answer:
            return str(json.load(answer)["status"])
    except urllib.error.URLError:
        return None
