"""Pictures of the live page for the documentation, taken from the page itself.

    python -m benchmarks.screenshots [--model demo] [--folder docs/images]

The demo's driver is in front of the camera; the portraits are those that the page offers.
"""

import argparse
from pathlib import Path

from playwright.sync_api import Page, ViewportSize

from benchmarks.page import SERVE, choose_and_start, driven, served, wait_until_driven

DESK, PHONE = ViewportSize(width=1120, height=1000), ViewportSize(width=390, height=844)


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
    page.locator("#still").wait_for()
    page.get_by_role("button", name="Check the camera").click()
    page.locator("#guide rect").wait_for()
    save("live_chosen")
    choose_and_start(page, "Carla")
    wait_until_driven(page)
    page.wait_for_timeout(seconds * 1000)
    save("live")
    page.emulate_media(color_scheme="dark")
    save("live_dark")
    page.set_viewport_size(PHONE)
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
    with served(*SERVE, "--model", arguments.model) as (url, _), driven() as browser:
        page = browser.new_page(viewport=DESK)
        page.goto(url)
        take(page, arguments.folder, arguments.seconds)


if __name__ == "__main__":
    main()
