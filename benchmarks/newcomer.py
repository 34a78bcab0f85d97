"""Seconds from opening the page to a portrait that moves, and the clicks that it takes.

    python -m benchmarks.newcomer [--model demo] [--times 3]

Chromium opens the page for the first time, with the demo's driver before its camera; the server runs already.
"""

import argparse
import time
from pathlib import Path

from playwright.sync_api import Browser

from benchmarks.measuring import Results
from benchmarks.page import driven, served
from personalive.testing.browser import PATIENCE


def visit(browser: Browser, url: str) -> dict[str, float]:
    """Seconds since the page was opened, at each step of a newcomer, and the clicks."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    began = time.perf_counter()
    page.goto(url)
    page.get_by_role("button", name="Carla", exact=True).click()
    seen = time.perf_counter() - began
    page.get_by_role("button", name="Start", exact=True).and_(page.locator(".primary")).click()
    started = time.perf_counter() - began
    page.wait_for_function("() => parseFloat(document.getElementById('delay').textContent) > 0")
    moving = time.perf_counter() - began
    page.get_by_role("button", name="Stop").click()
    context.close()
    steps = {"portrait clicked": seen, "start clicked": started, "the portrait moves": moving}
    return {"clicks": 2} | {name: round(value, 2) for name, value in steps.items()}


def main() -> None:
    """Visit the page several times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, personalive or a folder")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/newcomer.json"))
    options = parser.parse_args()
    results = Results(options.output)
    with served(options.model) as url, driven() as browser:
        for index in range(options.times):
            results.add(f"visit {index + 1}", visit(browser, url))


if __name__ == "__main__":
    main()
