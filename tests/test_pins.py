"""The pins in requirements*.txt, pyproject.toml, cog.yaml and the Dockerfile say the same."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FILES = ("requirements.txt", "requirements-container.txt", "requirements-dev.txt")

# What the container has differently, and why: xformers needs this torch, which does not bring cuda-bindings yet.
CONTAINER_ONLY = {"torch": "2.5.1", "xformers": "0.0.29.post1", "cuda-bindings": "12.9.4"}


def pins(name: str) -> dict[str, str]:
    """Canonical name → version of every package in the file. Every line must pin exactly."""
    found: dict[str, str] = {}
    for line in (ROOT / name).read_text().splitlines():
        text = line.split("#")[0].strip()
        if text and not text.startswith("-r "):
            requirement = Requirement(text)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==" and "*" not in specifier.version, f"{name}: {text} is not an exact pin"
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


def cog_build() -> dict[str, Any]:
    build: dict[str, Any] = yaml.safe_load((ROOT / "cog.yaml").read_text())["build"]
    return build


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_pinned_and_comes_from_the_default_index(name: str) -> None:
    assert pins(name)
    assert not re.search(r"index-url|find-links|https?:|torchvision", (ROOT / name).read_text())


def test_container_and_native_pins_differ_only_where_they_must() -> None:
    native, container = pins("requirements.txt"), pins("requirements-container.txt")
    assert container == native | CONTAINER_ONLY


def test_the_packages_metadata_allows_both_sets_of_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for apart in ("camera", "onnx", "openvino", "scale"):  # these have their own pins, in pyproject.toml
        del project["optional-dependencies"][apart]
    dependencies = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    required: dict[str, SpecifierSet] = {canonicalize_name(r.name): r.specifier for r in map(Requirement, dependencies)}
    del required["personalive"]  # extras that are made of others
    native, container = pins("requirements.txt"), pins("requirements-container.txt")
    assert set(required) == set(native)
    for name, specifier in required.items():
        assert Version(native[name]) in specifier, name
        assert Version(container[name]) in specifier, name


def test_development_adds_and_never_repins() -> None:
    assert not pins("requirements-dev.txt").keys() & pins("requirements.txt").keys()
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()


def test_cog_builds_with_the_containers_pins() -> None:
    build = cog_build()
    assert build["python_requirements"] == "requirements-container.txt"
    assert build["sdk_version"] == pins("requirements-container.txt")["cog"]
    assert isinstance(build["cuda"], str)
    assert not {"python_packages", "pre_install"} & build.keys()


def test_the_dockerfiles_base_has_the_pinned_torch_and_cogs_cuda() -> None:
    (base,) = re.findall(r"^ARG BASE_IMAGE=pytorch/pytorch:(\S+)-cuda(\S+)-cudnn9-runtime$", dockerfile(), re.MULTILINE)
    assert base == (pins("requirements-container.txt")["torch"], cog_build()["cuda"])


def test_the_dockerfile_installs_and_checks_the_containers_pins() -> None:
    assert "pip install --no-cache-dir --requirement /opt/pins/requirements-container.txt" in dockerfile()
    assert "check_pins.py /opt/pins/requirements-container.txt" in dockerfile()
    assert not re.search(r"pip install [^\\\n]*==", dockerfile()), "a pin of its own in the Dockerfile"


def test_the_dockerfile_and_cog_install_the_same_libraries() -> None:
    for package in cog_build()["system_packages"]:
        assert package in dockerfile()


def test_the_dockerfile_has_no_weights_of_others_and_does_not_run_as_root() -> None:
    lines = dockerfile().splitlines()
    assert "USER 1000:1000" in lines
    assert not [line for line in lines if line.startswith("USER") and line != "USER 1000:1000"]
    assert "download" not in re.sub(r"#.*", "", dockerfile())


def test_check_pins_tells_a_wrong_environment(tmp_path: Path) -> None:
    def check(text: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "requirements.txt"
        path.write_text(text)
        return subprocess.run([sys.executable, ROOT / "scripts/check_pins.py", path], capture_output=True, text=True)

    assert check(f"# a comment\npytest=={pytest.__version__}  # another\n").returncode == 0
    wrong = check("pytest==0.1\nno-such-package-here==1.0\n")
    assert wrong.returncode == 1
    assert "pytest: 0.1 is pinned" in wrong.stdout and "no-such-package-here" in wrong.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_containers_pins_resolve() -> None:
    """Against the package index, without installing: needs the network."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    result = subprocess.run(
        [*command, "--requirement", ROOT / "requirements-container.txt"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    resolved = yaml.safe_load(result.stdout)["install"]
    versions: dict[str, str] = {
        canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"] for item in resolved
    }
    for name, version in pins("requirements-container.txt").items():
        assert versions[name].split("+")[0] == version
