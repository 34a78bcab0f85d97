"""Seconds from opening the page to a portrait that moves, and the clicks that it takes.

    python -m benchmarks.newcomer [--model demo] [--times 3]

Chromium opens the page for the first time, with the demo's driver before its camera; the server runs already. A person
also has to allow the camera, which here happens by itself: one click more.
"""

import argparse
import time
from pathlib import Path

from playwright.sync_api import Browser

from benchmarks.measuring import Results
from benchmarks.page import SERVE, choose_and_start, driven, served, wait_until_driven

CLICKS = 2
MOVES = """() => {
  const video = document.getElementById("result");
  const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let first = null;
  window.moved = new Promise((resolve) => {
    const note = () => {
      context.drawImage(video, 0, 0, 64, 64);
      const { data } = context.getImageData(0, 0, 64, 64);
      first ??= data;
      const changed = data.reduce((sum, each, index) => sum + Math.abs(each - first[index]), 0) / data.length;
      if (changed > 0.5) resolve();
      else video.requestVideoFrameCallback(note);
    };
    video.requestVideoFrameCallback(note);
  });
}"""
"""Resolves when the picture is no longer its first one; without movement, pictures differ by 0.05 of 255."""


def visit(browser: Browser, url: str) -> dict[str, float]:
    """Seconds since the page was opened at each step of a newcomer."""
    context = browser.new_context()
    page = context.new_page()
    began = time.perf_counter()

    def since() -> float:
        return round(time.perf_counter() - began, 2)

    page.goto(url)
    page.evaluate(MOVES)
    choose_and_start(page, "Carla")
    steps = {"start clicked": since()}
    page.evaluate("window.moved")
    steps["the portrait moves"] = since()
    wait_until_driven(page)
    steps["the driver moves it"] = since()
    page.get_by_role("button", name="Stop").click()
    context.close()
    return steps


def main() -> None:
    """Visit the page several times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, personalive or a folder")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/live_newcomer.json"))
    options = parser.parse_args()
    results = Results(options.output)
    results.add("clicks, besides allowing the camera", CLICKS)
    with served(*SERVE, "--model", options.model) as (url, _), driven() as browser:
        for index in range(options.times):
            results.add(f"visit {index + 1}, seconds", visit(browser, url))


if __name__ == "__main__":
    main()
