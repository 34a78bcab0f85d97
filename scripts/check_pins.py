"""Asserts that the packages of this environment are those of a requirements file: `python check_pins.py FILE`."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def pins(path: Path) -> dict[str, str]:
    """Name and version of every `name==version` line; files that it includes are not followed."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def wrong(expected: dict[str, str]) -> list[str]:
    """One line for each package that is missing or has another version. Local parts, as in 2.5.1+cu124, are ignored."""
    found = []
    for name, pin in expected.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "nothing"
        if installed.split("+")[0] != pin:
            found.append(f"{name}: {pin} is pinned, {installed} is installed")
    return found


if __name__ == "__main__":
    problems = wrong(pins(Path(sys.argv[1])))
    print("\n".join(problems) or f"all pins of {sys.argv[1]} are installed")
    sys.exit(bool(problems))
