"""Runs schemathesis over what a server says of its interface: what it allows and what it forbids, all checks."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PHASES = "examples,coverage,fuzzing,stateful"
"""Single requests, and sequences in which an answer leads to the next request."""


def fuzz(url: str, folder: Path, examples: int, *flags: str, webhook: str = "") -> None:
    """Fails with the report where an answer is not as described; the report's files lie in `folder`."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(FOLDER / "schemathesis.toml")]
    command += ["run", f"{url}/openapi.json", *flags]
    command += ["--mode", "all", "--checks", "all", "--phases", PHASES, "--max-examples", str(examples)]
    command += ["--continue-on-failure", "--generation-deterministic", "--no-color", "--request-timeout", "60"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.hostile.schemathesis_hooks", "FUZZ_WEBHOOK": webhook}
    environment["PYTHONPATH"] = str(FOLDER.parents[1])
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
