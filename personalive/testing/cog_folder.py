"""A folder that Cog's server, or the service in front of it, can be started in, with a predictor of one's own."""

import subprocess
import sys
from pathlib import Path


def make_cog_folder(folder: Path, predictor: str) -> None:
    """Write `predict.py` with this source, Cog's file that names it, and the schema that Cog makes of it."""
    (folder / "predict.py").write_text(predictor)
    (folder / "cog.yaml").write_text("predict: predict.py:Predictor\n")
    (folder / ".cog").mkdir()
    command = [sys.executable, "-m", "cog.command.openapi_schema"]
    schema = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    (folder / ".cog" / "openapi_schema.json").write_bytes(schema)
