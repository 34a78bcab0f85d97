"""The shell scripts: what predict.sh asks of Docker (a stand-in that records) and of .venv."""

import csv
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

RECORDER = f"""#!{sys.executable}
import json, os, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps({{"name": name, "arguments": arguments, "folder": os.getcwd()}}) + "\\n")
"""
DOCKER = f"""{RECORDER}
if arguments[:1] == ["info"]:
    print(os.environ.get("DOCKER_INFO", "Runtimes: io.containerd.runc.v2 nvidia runc"))
status = {{"image": "INSPECT_STATUS", "build": "BUILD_STATUS", "run": "RUN_STATUS"}}.get(arguments[0])
sys.exit(int(os.environ.get(status or "", "0")))
"""
NVIDIA_SMI = """#!/bin/sh
echo "GPU 0: NVIDIA Test (UUID: GPU-0)"
"""
# Answers like an environment's python, but for pip, which is recorded.
VENV_PYTHON = f"""{RECORDER}
if arguments[:2] != ["-m", "pip"]:
    os.execv({sys.executable!r}, [{sys.executable!r}, *arguments])
sys.exit(int(os.environ.get("PIP_STATUS", "0")) if "install" in arguments else 0)
"""
PERSONALIVE = f"""{RECORDER}
sys.exit(7)
"""


def install(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@dataclass
class Machine:
    """A checkout with stand-ins for everything that predict.sh starts, and a folder in which the user is."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def user(self) -> Path:
        return self.folder / "the user's files"

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def run(
        self, *arguments: str | Path, script: str = "predict.sh", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        command = [str(self.checkout / script), *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=self.user,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def calls(self, name: str, *prefix: str) -> list[list[str]]:
        """Arguments of every recorded call of the program, of those that begin with `prefix`."""
        record = Path(self.environment["RECORD"])
        lines: list[dict[str, Any]] = [json.loads(line) for line in record.read_text().splitlines()]
        calls = [line["arguments"] for line in lines if line["name"] == name]
        return [call for call in calls if call[: len(prefix)] == list(prefix)]

    def folder_of(self, name: str) -> Path:
        lines = [json.loads(line) for line in Path(self.environment["RECORD"]).read_text().splitlines()]
        return Path(next(line["folder"] for line in lines if line["name"] == name))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Without Docker and GPU; see `with_docker`."""
    machine = Machine(tmp_path)
    tools = tmp_path / "tools"
    machine.environment = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "RECORD": str(tmp_path / "record"),
    }
    Path(machine.environment["RECORD"]).touch()
    tools.mkdir()
    machine.user.mkdir()
    for name in ("predict.sh", "build.sh", "serve.sh", "download_models.sh", "scripts/venv.sh", "pyproject.toml"):
        (machine.checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, machine.checkout / name)
    (machine.checkout / "requirements.txt").write_text("example==1.0\n")
    install(machine.checkout / ".venv/bin/python", VENV_PYTHON)
    install(machine.checkout / ".venv/bin/personalive", PERSONALIVE)
    return machine


@pytest.fixture
def with_docker(machine: Machine) -> Machine:
    install(machine.folder / "tools/docker", DOCKER)
    install(machine.folder / "tools/nvidia-smi", NVIDIA_SMI)
    return machine


def the_run(machine: Machine) -> list[str]:
    (run,) = machine.calls("docker", "run")
    return run


def mounts(run: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Target → source and whether it can only be read, by the rules that Docker reads `--mount` with."""
    found = {}
    for flag, value in itertools.pairwise(run):
        if flag == "--mount":
            fields = next(csv.reader([value]))
            pairs = dict(pair.split("=", 1) for pair in fields if "=" in pair)
            assert pairs["type"] == "bind"
            found[pairs["target"]] = (pairs["source"], "readonly" in fields)
    return found


def command(run: list[str]) -> list[str]:
    """What runs in the container."""
    return run[run.index("personalive") + 1 :]


def value(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_docker_and_a_gpu_run_the_image_as_the_calling_user(with_docker: Machine) -> None:
    result = with_docker.run("--steps", "8", "--verbose")
    assert result.returncode == 0, result.stderr
    run = the_run(with_docker)
    assert value(run, "--user") == f"{os.getuid()}:{os.getgid()}"
    assert value(run, "--gpus") == "all"
    assert value(run, "--cap-drop") == "ALL"
    assert "--rm" in run and "--privileged" not in run and "--network" not in run
    assert command(run) == ["personalive", "animate", "--steps", "8", "--verbose"]
    assert with_docker.calls("personalive") == []


def test_cache_and_outputs_are_mounted_and_belong_to_the_user(with_docker: Machine) -> None:
    assert with_docker.run().returncode == 0
    cache = with_docker.folder / "home/.cache/huggingface"
    assert mounts(the_run(with_docker)) == {
        "/cache": (str(cache), False),
        "/app/outputs": (str(with_docker.user / "outputs"), False),
    }
    # Docker would make missing folders as root.
    assert cache.is_dir() and (with_docker.user / "outputs").is_dir()


def test_hf_home_is_the_cache(with_docker: Machine) -> None:
    elsewhere = with_docker.folder / "weights, all of them"
    assert with_docker.run(HF_HOME=str(elsewhere)).returncode == 0
    assert mounts(the_run(with_docker))["/cache"] == (str(elsewhere), False)


@pytest.mark.parametrize("name", ["portrait.png", "my portrait.png", 'a "b", c.png', "ö=x.png", "sub/../portrait.png"])
@pytest.mark.parametrize("joined", [False, True])
def test_files_of_the_user_are_mounted_for_reading_only(with_docker: Machine, name: str, joined: bool) -> None:
    (with_docker.user / "sub").mkdir()
    (with_docker.user / name).touch()
    arguments = [f"--ref_image={name}"] if joined else ["--ref_image", name]
    result = with_docker.run(*arguments)
    assert result.returncode == 0, result.stderr
    run = the_run(with_docker)
    source = os.path.normpath(with_docker.user / name)
    assert mounts(run)[f"/host{source}"] == (source, True)
    expected = [f"--ref_image=/host{source}"] if joined else ["--ref_image", f"/host{source}"]
    assert command(run) == ["personalive", "animate", *expected]


def test_an_absolute_driver_and_a_model_folder(with_docker: Machine) -> None:
    driver = with_docker.folder / "talk.mp4"
    driver.touch()
    (with_docker.user / "model").mkdir()
    assert with_docker.run("--driving_video", driver, "--model", "model", "--seed", "-1").returncode == 0
    run = the_run(with_docker)
    assert mounts(run)[f"/host{driver}"] == (str(driver), True)
    model = with_docker.user / "model"
    assert mounts(run)[f"/host{model}"] == (str(model), True)
    assert command(run)[2:] == ["--driving_video", f"/host{driver}", "--model", f"/host{model}", "--seed", "-1"]


@pytest.mark.parametrize("name", ["personalive", "demo"])
def test_a_model_by_name_is_no_folder(with_docker: Machine, name: str) -> None:
    assert with_docker.run("--model", name).returncode == 0
    assert command(the_run(with_docker)) == ["personalive", "animate", "--model", name]
    assert len(mounts(the_run(with_docker))) == 2


@pytest.mark.parametrize("arguments", [["-o", "{}"], ["-o{}"], ["--output", "{}"], ["--output={}"]])
def test_an_output_inside_outputs_needs_no_mount(with_docker: Machine, arguments: list[str]) -> None:
    for path in ("outputs/a b.mp4", "./outputs/a b.mp4", str(with_docker.user / "outputs/a b.mp4")):
        Path(with_docker.environment["RECORD"]).write_text("")
        assert with_docker.run(*(argument.format(path) for argument in arguments)).returncode == 0
        run = the_run(with_docker)
        assert command(run)[2:] == [argument.format("outputs/a b.mp4") for argument in arguments]
        assert len(mounts(run)) == 2


def test_a_folder_that_is_read_and_written_is_mounted_once(with_docker: Machine) -> None:
    folder = with_docker.user / "else where"
    folder.mkdir()
    (folder / "nod.motion").write_bytes(b"motion")
    names = {"--driving_video": "nod.motion", "--save_motion": "again.motion", "--output": "out.mp4"}
    assert with_docker.run(*(f"{flag}={folder.name}/{name}" for flag, name in names.items())).returncode == 0
    run = the_run(with_docker)
    assert mounts(run)[f"/host{folder}"] == (str(folder), False) and len(mounts(run)) == 3
    assert command(run)[2:] == [f"{flag}=/host{folder}/{name}" for flag, name in names.items()]


def test_an_output_elsewhere_gets_its_folder_mounted_for_writing(with_docker: Machine) -> None:
    assert with_docker.run("--output", "new folder/x.mp4").returncode == 0
    run = the_run(with_docker)
    folder = with_docker.user / "new folder"
    assert folder.is_dir()
    assert mounts(run)[f"/host{folder}"] == (str(folder), False)
    assert command(run)[2:] == ["--output", f"/host{folder}/x.mp4"]


@pytest.mark.parametrize("flag", ["--ref_image", "--driving_video", "--model"])
def test_a_missing_file_is_refused_before_anything_is_built(with_docker: Machine, flag: str) -> None:
    result = with_docker.run(flag, "missing.bin", INSPECT_STATUS="1")
    assert result.returncode != 0
    assert flag in result.stderr and "missing.bin" in result.stderr
    assert with_docker.calls("docker", "build") == with_docker.calls("docker", "run") == []


@pytest.mark.parametrize("status", [0, 1, 2, 137])
def test_the_exit_status_is_the_containers(with_docker: Machine, status: int) -> None:
    assert with_docker.run(RUN_STATUS=str(status)).returncode == status


def test_a_missing_image_is_built_first(with_docker: Machine) -> None:
    assert with_docker.run(INSPECT_STATUS="1").returncode == 0
    (build,) = with_docker.calls("docker", "build")
    assert value(build, "--tag") == "personalive"
    assert build[-1] == str(with_docker.checkout)
    the_run(with_docker)


def test_an_image_that_cannot_be_built_is_not_run(with_docker: Machine) -> None:
    assert with_docker.run(INSPECT_STATUS="1", BUILD_STATUS="3").returncode == 3
    assert with_docker.calls("docker", "run") == []


def test_a_token_reaches_the_container_without_being_shown(with_docker: Machine) -> None:
    assert with_docker.run(HF_TOKEN="secret", HF_HUB_OFFLINE="1", PERSONALIVE_HUB="modelscope").returncode == 0
    run = the_run(with_docker)
    assert "HF_TOKEN" in run and "HF_HUB_OFFLINE" in run and "PERSONALIVE_HUB" in run and "HF_ENDPOINT" not in run
    assert not any("secret" in argument for argument in run)


def test_what_servers_are_told_by_the_environment_reaches_the_container(with_docker: Machine) -> None:
    told = {"PERSONALIVE_TOKEN": "secret", "PERSONALIVE_ALLOW_PRIVATE_URLS": "1"}
    assert with_docker.run(script="serve.sh", **told).returncode == 0
    run = the_run(with_docker)
    assert all(run[run.index(name) - 1] == "--env" for name in told)
    assert not any("secret" in argument for argument in run)


def test_serve_shares_the_hosts_network(with_docker: Machine) -> None:
    assert with_docker.run("--port", "7000", script="serve.sh").returncode == 0
    run = the_run(with_docker)
    assert value(run, "--network") == "host"
    assert command(run) == ["personalive", "serve", "--port", "7000"]


def test_download_goes_through_the_same_door(with_docker: Machine) -> None:
    assert with_docker.run("--dry_run", script="download_models.sh").returncode == 0
    assert command(the_run(with_docker)) == ["personalive", "download", "--dry_run"]


def test_docker_without_a_gpu_runs_on_the_cpu_when_asked_for(with_docker: Machine) -> None:
    (with_docker.folder / "tools/nvidia-smi").unlink()
    result = with_docker.run("--docker")
    assert result.returncode == 0 and "CPU" in result.stderr
    assert "--gpus" not in the_run(with_docker)


@pytest.mark.parametrize("lacking", ["docker", "nvidia-smi", "the runtime"])
def test_without_docker_and_a_gpu_it_runs_natively(with_docker: Machine, lacking: str) -> None:
    (with_docker.folder / "tools" / lacking).unlink(missing_ok=True)
    info = "Runtimes: runc" if lacking == "the runtime" else "nvidia"
    assert with_docker.run("--seed", "3", DOCKER_INFO=info).returncode == 7
    assert with_docker.calls("personalive") == [["animate", "--seed", "3"]]
    assert with_docker.calls("docker", "run") == []


def test_native_wins_over_docker_when_asked_for(with_docker: Machine) -> None:
    result = with_docker.run("--ref_image", "my portrait.png", "--native", "-o", "x.mp4")
    assert result.returncode == 7
    assert with_docker.calls("personalive") == [["animate", "--ref_image", "my portrait.png", "-o", "x.mp4"]]
    assert with_docker.folder_of("personalive") == with_docker.user
    assert with_docker.calls("docker", "run") == []


def test_docker_that_is_not_there_is_said(machine: Machine) -> None:
    result = machine.run("--docker")
    assert result.returncode == 1 and "no docker on PATH" in result.stderr


def test_both_doors_at_once_are_refused(with_docker: Machine) -> None:
    result = with_docker.run("--docker", "--native")
    assert result.returncode == 1 and "exclude" in result.stderr


def installs(machine: Machine) -> list[list[str]]:
    """Calls that install packages, other than pip itself."""
    return [call for call in machine.calls("python", "-m", "pip") if "install" in call and "--upgrade" not in call]


def test_pins_are_installed_once_and_again_when_they_change(machine: Machine) -> None:
    assert machine.run("--native").returncode == 7
    first, package = installs(machine)
    assert value(first, "-r") == str(machine.checkout / "requirements.txt")
    assert value(package, "--editable") == str(machine.checkout)
    assert machine.run("--native").returncode == 7
    assert len(installs(machine)) == 2
    (machine.checkout / "requirements.txt").write_text("example==1.1\n")
    assert machine.run("--native").returncode == 7
    assert len(installs(machine)) == 4


def test_pins_that_cannot_be_installed_stop_the_run_and_are_tried_again(machine: Machine) -> None:
    result = machine.run("--native", PIP_STATUS="1")
    assert result.returncode == 1 and "pip could not install" in result.stderr
    assert machine.calls("personalive") == []
    assert machine.run("--native").returncode == 7


def test_a_python_that_is_too_old_is_said(machine: Machine) -> None:
    shutil.rmtree(machine.checkout / ".venv")
    tools = machine.folder / "tools"
    for name in ("bash", "dirname", "basename", "cat", "env"):
        (tools / name).symlink_to(Path(str(shutil.which(name))))
    for name in ("python3", "python3.11", "python3.12", "python"):
        install(tools / name, "#!/bin/sh\nexit 1\n")
    result = machine.run("--native", PATH=str(tools))
    assert result.returncode == 1 and "needs Python 3.11 or 3.12" in result.stderr
    assert not (machine.checkout / ".venv").exists()
