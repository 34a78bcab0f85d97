"""Pictures of the live page for the documentation, taken from the page itself.

    python -m benchmarks.screenshots [--model demo] [--folder docs/images]

The demo's driver is in front of the camera; the portraits are those that the page offers.
"""

import argparse
from pathlib import Path

from playwright.sync_api import Page

from benchmarks.page import driven, served


def take(page: Page, folder: Path, seconds: float) -> None:
    """Use the page as a newcomer would, and save what it looks like."""

    def save(name: str) -> None:
        page.wait_for_timeout(1000)  # buttons change their colour gradually
        page.screenshot(path=folder / f"{name}.png")

    page.get_by_role("button", name="Carla", exact=True).wait_for()
    save("live_first")
    page.get_by_role("button", name="Start", exact=True).click()
    save("live_error")
    page.get_by_role("button", name="Carla", exact=True).click()
    page.get_by_role("button", name="Start", exact=True).and_(page.locator(".primary")).click()
    # From here on the driver moves the portrait; before, the pictures lead from its own pose to the driver's.
    page.wait_for_function("() => parseFloat(document.getElementById('delay').textContent) > 0", timeout=180_000)
    page.wait_for_timeout(seconds * 1000)
    save("live")
    page.emulate_media(color_scheme="dark")
    save("live_dark")
    page.set_viewport_size({"width": 390, "height": 844})
    save("live_phone")
    page.get_by_role("button", name="Stop").click()


def main() -> None:
    """Run the server, open the page and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, personalive or a folder")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    parser.add_argument("--seconds", type=float, default=12, help="time before a picture of the animation is taken")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with served(arguments.model) as url, driven() as browser:
        page = browser.new_page(viewport={"width": 1120, "height": 1000})
        page.goto(url)
        take(page, arguments.folder, arguments.seconds)


if __name__ == "__main__":
    main()
