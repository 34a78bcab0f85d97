"""What the service in front of Cog's server costs: the same requests to both, with a predictor that does nothing.

    python -m benchmarks.decisions.gateway --output benchmarks/results/gateway.json

Both are real servers on loopback, asked by one client, one request after the other.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.measuring import Results
from personalive.testing.cog_folder import make_cog_folder

PREDICTOR = """
import time
from cog import BasePredictor, Input

class Predictor(BasePredictor):
    def predict(self, file: str = Input(description="A file."), size: int = Input(description="Of the result.")) -> str:
        time.sleep(0.1)
        return "data:video/mp4;base64," + "A" * size
"""
SLEPT = 100.0
"""Milliseconds that a prediction takes."""
COUNT = 30


@contextmanager
def server(folder: Path, *, alone: bool) -> Iterator[httpx.Client]:
    """A client of Cog's server, alone or behind the service."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = ["personalive.cli.main", "cog"] if not alone else ["cog.server.http", "--host", "127.0.0.1"]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
        "PORT": port,
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client)
            yield client
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(client: httpx.Client) -> None:
    """Until the server takes predictions."""
    while True:
        try:
            if client.get("/health-check").json()["status"] == "READY":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)


def median(client: httpx.Client, ask: Callable[[httpx.Client], object]) -> float:
    """Milliseconds of a request; Cog's server alone is given the moment that it needs between two."""
    times = []
    for _ in range(COUNT):
        begun = time.perf_counter()
        ask(client)
        times.append((time.perf_counter() - begun) * 1000)
        wait_until_ready(client)
    return statistics.median(times)


def prediction(megabytes: int) -> Callable[[httpx.Client], None]:
    """A prediction with so much in and out."""
    body = json.dumps({"input": {"file": "A" * (megabytes << 20), "size": megabytes << 20}}).encode()

    def ask(client: httpx.Client) -> None:
        answer = client.post("/predictions", content=body, headers={"Content-Type": "application/json"})
        assert answer.json()["status"] == "succeeded", answer.text[:500]

    return ask


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    results = Results(parser.parse_args().output)
    with tempfile.TemporaryDirectory() as name:
        make_cog_folder(Path(name), PREDICTOR)
        for title, alone in (("Cog's server alone", True), ("the service in front of it", False)):
            with server(Path(name), alone=alone) as client:
                figures = {"health check": median(client, lambda each: each.get("/health-check").raise_for_status())}
                for megabytes in (0, 1, 10):
                    asked = f"prediction, {megabytes} MiB in and out"
                    figures[asked] = median(client, prediction(megabytes)) - SLEPT
            results.add(title, {asked: round(figure, 1) for asked, figure in figures.items()})


if __name__ == "__main__":
    main()
