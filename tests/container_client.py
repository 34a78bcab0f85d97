"""What tests/container.sh asks of a server that has just been started: only the standard library is needed.

`python tests/container_client.py http://127.0.0.1:5000` waits for READY, checks that a bad input is refused and that
the demo assets give an MP4.
"""

import base64
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

DEMO = Path(__file__).parents[1] / "demo"
START_LIMIT = 300  # seconds


def call(url: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of a GET, or of a POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def wait_until_ready(server: str) -> None:
    """Returns when the server's status is READY; fails when it can no longer become READY."""
    end = time.monotonic() + START_LIMIT
    status = "no answer"
    while status != "READY":
        if time.monotonic() > end or status in ("SETUP_FAILED", "DEFUNCT", "UNHEALTHY"):
            sys.exit(f"the server is not ready: {status}")
        time.sleep(1)
        try:
            status = call(f"{server}/health-check")[1]["status"]
        except (urllib.error.URLError, ConnectionError):
            status = "no answer"


def data_url(path: Path, kind: str) -> str:
    """The file as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def main(server: str) -> None:
    """Runs the checks in order; the first that fails ends the program."""
    wait_until_ready(server)
    print("READY")
    inputs = {
        "ref_image": data_url(DEMO / "portrait.png", "image/png"),
        "driving_video": data_url(DEMO / "driver.mp4", "video/mp4"),
        "max_frames": 8,
    }
    code, answer = call(f"{server}/predictions", {"input": {**inputs, "steps": 5}})
    if code != 422:
        sys.exit(f"steps=5 must be refused with 422, but the answer is {code}: {answer}")
    print("a bad input is refused")
    started = time.monotonic()
    code, answer = call(f"{server}/predictions", {"input": inputs})
    if code != 200 or answer["status"] != "succeeded":
        sys.exit(f"the prediction failed with {code}: {answer.get('error', answer)}")
    video = base64.b64decode(answer["output"].split(",", 1)[1])
    if video[4:8] != b"ftyp":
        sys.exit(f"the prediction's output is not an MP4: it begins with {video[:16]!r}")
    print(f"8 frames in {time.monotonic() - started:.1f} s, an MP4 of {len(video)} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
