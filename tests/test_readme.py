"""README: its examples run, and what it says about options and weights is what the program says."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from personalive.weights.manifest import published

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

# An example is run when a comment stands before it: <!-- run -->, <!-- run with the server -->.
EXAMPLE = re.compile(r"<!-- (?P<how>run[a-z, ]*) -->\n```(?P<language>bash|python)\n(?P<code>.*?)\n```", re.DOTALL)
SERVER = re.compile(r"<!-- the server -->\n```bash\n(?P<code>.*?)\n```", re.DOTALL)
PORT = "5000"


def examples(how: str) -> list[ParameterSet]:
    """The examples that are run in this way, as test parameters."""
    found = [example for example in EXAMPLE.finditer(README) if example["how"] == how]
    assert found, how
    return [pytest.param(example["language"], example["code"], id=example["code"].splitlines()[0]) for example in found]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a new checkout; the environment is that of the tests."""
    for name in ("demo", "weights", "predict.py", "cog.yaml", ".cog"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = tmp_path / "predict.sh"
    script.write_text(f'#!/bin/sh\nexec "{ROOT}/predict.sh" --native "$@"\n')
    script.chmod(0o755)
    environment = tmp_path / ".venv"
    environment.symlink_to(sys.prefix)
    return tmp_path


def run(language: str, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run an example in the folder; its first failing command ends it."""
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("language", "code"), examples("run"))
def test_an_example(language: str, code: str, checkout: Path) -> None:
    result = run(language, code, checkout)
    assert result.returncode == 0, result.stderr
    if "predict.sh" in code or "animate(" in code:
        assert [path for path in checkout.rglob("*.mp4") if path.stat().st_size > 1000 and not path.is_symlink()]


@pytest.fixture
def server(checkout: Path) -> Iterator[str]:
    """The port of a server that was started as README says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (start,) = SERVER.finditer(README)
    command = ["bash", "-c", f"{start['code']} --port {port}"]
    with (checkout / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=checkout, env=environment(), stdout=log, stderr=log, process_group=0)
    try:
        wait_until_ready(port, process)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def wait_until_ready(port: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health-check") as answer:
                if json.load(answer)["status"] == "READY":
                    return
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError("the server of README's example ended")


@pytest.mark.slow
def test_the_examples_for_the_server(server: str, checkout: Path) -> None:
    clients = examples("run with the server")
    assert clients
    for language, code in (parameter.values for parameter in clients):
        result = run(language, code.replace(PORT, server), checkout)
        assert result.returncode == 0, result.stdout + result.stderr
    assert (checkout / "result.mp4").read_bytes()[4:8] == b"ftyp"


def test_every_published_repository_is_named_with_its_commit() -> None:
    for repository in {file.repository for file in published().files}:
        assert f"[{repository.name}](https://huggingface.co/{repository.name}) `{repository.revision[:8]}`" in README


def test_every_file_that_readme_links_to_exists() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_heading_that_readme_links_to_exists() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings
