"""Puts the demo into wheels. Everything else about the package is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithDemo(build_py):
    """Maps folders from the top of the repository into the package, where `personalive.assets` looks for them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in ("demo", "weights/demo"):
                shutil.copytree(ROOT / name, Path(self.build_lib) / "personalive" / name, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithDemo})
