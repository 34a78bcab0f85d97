"""What the wheels of pinned packages hold, and what the versions after them do not: why the pins are where they are.

    python -m benchmarks.decisions.pinned_versions                # fetches some 130 MB with pip into a folder for once
    python -m benchmarks.decisions.pinned_versions --wheels DIR   # keeps them in DIR

Nothing is installed: each wheel is opened as a zip file. Exits with 1 if a claim no longer holds.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

PLATFORM = ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_17_x86_64")


@dataclass(frozen=True)
class Claim:
    """Whether a wheel has a file of this name with this text in it."""

    package: str
    version: str
    file: str
    """Pattern of names within the wheel."""
    text: bytes
    """Empty: any file of that name will do."""
    holds: bool
    why: str


CLAIMS = (
    Claim("mediapipe", "0.10.21", "*/face_landmark.tflite", b"", True, "the face mesh's model is in the wheel"),
    Claim("mediapipe", "0.10.21", "*/solutions/face_mesh.py", b"", True, "and so is the interface to it"),
    Claim("mediapipe", "0.10.30", "*.tflite", b"", False, "the next version has no models: each user fetches them"),
    Claim("mediapipe", "1.2.3", "*.tflite", b"", False, "nor has the newest"),
    Claim("cog", "0.19.3", "cog/command/openapi_schema.py", b"", True, "Python makes the schema, without Cog's CLI"),
    Claim("cog", "0.20.0", "cog/command/openapi_schema.py", b"", False, "the next version cannot"),
    Claim("cog", "0.19.3", "cog/*.py", b"BaseRunner", False, "cog 0.19 lacks a class..."),
    Claim("coglet", "0.19.3", "*.so", b"BaseRunner", False, "...that its own coglet does not ask for..."),
    Claim("coglet", "0.20.0", "*.so", b"BaseRunner", True, "...and the next coglet does, which cog 0.19 would accept"),
    Claim("xformers", "0.0.29.post1", "*/METADATA", b"Requires-Dist: torch==2.5.1", True, "the last for torch 2.5.1"),
    Claim("xformers", "0.0.29.post2", "*/METADATA", b"Requires-Dist: torch==2.5.1", False, "the next is for torch 2.6"),
    Claim(
        "diffusers", "0.39.0", "*/METADATA", b"Requires-Dist: torch>=2.6", True, "not for the container's torch 2.5.1"
    ),
)


def wheel(package: str, version: str, folder: Path) -> Path:
    """The wheel in `folder`, fetched if it is not there."""
    pattern = f"{package}-{version}-*.whl"
    if not any(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *PLATFORM]
        subprocess.run([*command, "--dest", str(folder), f"{package}=={version}"], check=True)
    return next(folder.glob(pattern))


def has(claim: Claim, folder: Path) -> bool:
    """Whether the wheel has what the claim speaks of."""
    with zipfile.ZipFile(wheel(claim.package, claim.version, folder)) as archive:
        names = [name for name in archive.namelist() if fnmatch(name, claim.file)]
        return any(claim.text in archive.read(name) for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder for the wheels")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.wheels or Path(temporary)
        for claim in CLAIMS:
            holds = has(claim, folder) == claim.holds
            wrong += not holds
            name = f"{claim.package} {claim.version}"
            print(f"{'ok   ' if holds else 'WRONG'} {name:24} {claim.why}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
