"""Motion-to-photon delay of the live server.

    python -m benchmarks.latency                              # over WebRTC and Chromium, with the echo model
    python -m benchmarks.latency --model demo
    python -m benchmarks.latency --call_ms 320 --seconds 600  # a model of half the camera's rate, for ten minutes
    python -m benchmarks.latency --whip --call_ms 75          # the same by WHIP and WHEP
    python -m benchmarks.latency --background blur            # what the background costs: see background_ms
    python -m benchmarks.latency --in_process --model rule --people 3   # one GPU: no network, no browser

In process, sessions are added until a camera frame is dropped; that is how many the device can run. Each mode is
measured without keyframes and with three, the most that there can be, which make calls slower.

The driver carries a number in black and white fields. With the echo model the number is read from the picture that
comes back. Another model does not pass numbers through; then the session's time stamps tell the delay.
"""

import argparse
import asyncio
import itertools
import json
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.in_process import Setting, capacity, measure
from benchmarks.measuring import Results
from personalive.accel.accelerator import Accelerator
from personalive.cli.arguments import add_settings, read_settings
from personalive.config import MAX_KEYFRAME_THRESHOLD, ModelConfig
from personalive.live.core.engine import Engine
from personalive.live.core.model import ModelFactory, PersonaLiveEngine
from personalive.live.core.parameters import LoadParameters
from personalive.loading import ModelChoice
from personalive.testing.echo import EchoEngine
from personalive.types import AcceleratorName, Background, Latency

FPS = 25
MEMORY_SECONDS = 0.5
PAGE = Path(__file__).with_name("latency_page.js")


def make_engine(options: argparse.Namespace) -> Engine:
    """The model that is measured."""
    if options.model == "echo":
        window, delay = (4, 12) if options.call_ms else (1, 0)
        return EchoEngine(
            options.size, options.size, chunk_frames=window, delay_frames=delay, seconds=options.call_ms / 1e3
        )
    choice = read_settings(options, ModelChoice)
    if options.model == "rule":
        from benchmarks.gpu_model import build

        device, dtype = choice.resolved_device(), choice.resolved_dtype() or torch.float16
        name: AcceleratorName = "none" if choice.accelerate == "none" else "graphs"
        accelerator = Accelerator(
            device, dtype, name, choice.attention, quantize=choice.quantize, accumulate=choice.accumulate
        )
        model = build(ModelConfig(), dtype, accelerator, device, tiny_vae=choice.tiny_vae is not None)
    else:
        model = choice.load()
    factory = ModelFactory(lambda: model, face_boxes=options.in_process)
    return factory(LoadParameters(width=options.size, height=options.size), print)


def in_process(options: argparse.Namespace, results: Results) -> None:
    """Sessions fed from memory, one more at a time."""
    engine = make_engine(options)
    if isinstance(engine, PersonaLiveEngine) and torch.cuda.is_available():
        results.add("memory after warm-up GiB", torch.cuda.memory_reserved() / 2**30)
    modes: tuple[Latency, ...] = (options.latency,) if options.latency else ("balanced", "low")
    for latency, keyframes, max_batch in itertools.product(modes, options.keyframes, options.max_batch):
        threshold = MAX_KEYFRAME_THRESHOLD if keyframes == "none" else 0.0

        def run(people: int, given: tuple[Latency, float, int] = (latency, threshold, max_batch)) -> dict[str, Any]:
            latency, threshold, max_batch = given
            return measure(engine, Setting(latency, people, options.fps, options.seconds, threshold, max_batch))

        carried, runs = capacity(run, options.people, options.fps)
        name = f"{latency}, {keyframes} keyframes, batches of {max_batch}"
        results.add(f"{name}: runs", runs)
        results.add(f"{name}: sessions at {options.fps:g} fps", carried)


def serving(options: argparse.Namespace) -> AbstractContextManager[tuple[str, int]]:
    """A server in a process of its own: its address and process id."""
    from benchmarks.page import served

    return served("-m", "benchmarks.latency", *sys.argv[1:], "--serve", OMP_NUM_THREADS=str(options.threads))


def serve(options: argparse.Namespace) -> None:
    """The server's process: the real application over the model that is measured."""
    import uvicorn

    from personalive.live.http.server import create_app
    from personalive.live.options import ServeOptions

    settings = ServeOptions(port=options.port, latency=options.latency or "balanced", face_boxes="keypoints")
    app = create_app(settings, lambda parameters, at_stage: make_engine(options), None)
    uvicorn.run(app, port=options.port, log_level="warning")


def in_browser(options: argparse.Namespace, results: Results) -> None:
    """Chromium drives a session over WebRTC on loopback."""
    from playwright.sync_api import sync_playwright

    from personalive.testing.browser import chromium

    with serving(options) as (url, pid), sync_playwright() as playwright, chromium(playwright, None) as browser:
        page = browser.new_page()
        page.goto(url)
        parameters = {"background": options.background}
        page.evaluate(PAGE.read_text(), {"fps": FPS, "size": options.size, "parameters": parameters})
        memory = MemoryWatch(pid)
        page.wait_for_timeout(options.seconds * 1000)
        found = page.evaluate("window.finish()")
        memory_used = memory.finish()
    report(found, memory_used, options, results)


def by_whip(options: argparse.Namespace, results: Results) -> None:
    """A client of WHIP drives a session, and one of WHEP watches it, on loopback."""
    from benchmarks.whip import measure as measure_whip

    with serving(options) as (url, pid):
        memory = MemoryWatch(pid)
        found = asyncio.run(measure_whip(url, options.size, FPS, options.seconds))
    report(found, memory.finish(), options, results)


def report(found: dict[str, Any], memory: list[float], options: argparse.Namespace, results: Results) -> None:
    """Delays by the mark (echo) or by the session's stamps, at the beginning and at the end."""
    warm = 3.0
    if options.model == "echo" and options.background == "as_is":
        rows = np.array([row for row in found["marks"] if row[0] > warm]).reshape(-1, 2)
    else:
        stamped = [(each["at"], each["delay_ms"]) for each in found["stats"] if "delay_ms" in each]
        rows = np.array([row for row in stamped if row[0] > warm]).reshape(-1, 2)
    if len(rows) < 5:
        raise SystemExit("too few pictures came back to measure a delay")
    span = min(60.0, options.seconds / 4)
    first = rows[rows[:, 0] < rows[0, 0] + span, 1]
    last = rows[rows[:, 0] > rows[-1, 0] - span, 1]
    results.add("delay p50 ms", float(np.median(rows[:, 1])))
    results.add("delay p95 ms", float(np.quantile(rows[:, 1], 0.95)))
    for name, values in (("first", first), ("last", last)):
        results.add(f"delay p50 and p95 ms, {name} {span:g} s", np.quantile(values, (0.5, 0.95)).round(1).tolist())
    results.add("pictures a second", len(found["times"]) / options.seconds)
    place = min(len(memory) - 1, round(span / MEMORY_SECONDS))
    results.add(f"memory of the server MiB, after {span:g} s and at the end", [memory[place], memory[-1]])
    results.add("last figures of the session", found["stats"][-1] if found["stats"] else None)


class MemoryWatch:
    """Resident memory of a process, at regular intervals."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._process = psutil.Process(pid)
        self._values: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> list[float]:
        """The values in MiB."""
        self._stop.set()
        self._thread.join()
        return self._values

    def _run(self) -> None:
        while not self._stop.wait(MEMORY_SECONDS):
            self._values.append(round(self._process.memory_info().rss / 2**20, 1))


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/latency.json"))
    add_settings(
        parser, ModelChoice
    )  # --model may also be echo, or rule: random weights (then --tiny_vae may be any path)
    parser.set_defaults(model="echo")
    parser.add_argument("--call_ms", type=float, default=0, help="time of a call of the echo model, in chunks of 4")
    parser.add_argument("--latency", choices=("balanced", "low"), help="in process, both unless one is named")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--threads", type=int, default=2, help="of the model in the server's process")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--background", default="as_is", choices=get_args(Background), help="on the page")
    way.add_argument("--in_process", action="store_true")
    way.add_argument("--whip", action="store_true", help="by WHIP and WHEP, in place of the page")
    parser.add_argument("--people", type=int, default=6, help="in process: sessions to try at most")
    parser.add_argument("--keyframes", choices=("none", "three"), nargs="*", default=["none", "three"])
    parser.add_argument("--max_batch", type=int, nargs="*", default=[1], help="in process: sessions in a call")
    parser.add_argument("--fps", type=float, default=FPS, help="in process: of the cameras")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    results = Results(options.output)
    results.add("options", json.loads(json.dumps(vars(options), default=str)))
    run = in_process if options.in_process else by_whip if options.whip else in_browser
    run(options, results)


if __name__ == "__main__":
    main()
