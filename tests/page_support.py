"""The live page in a browser: how a user finds its parts, and faces wherever a test says."""

from playwright.sync_api import BrowserContext, Locator, Page, expect

from personalive.live.core.session import Session
from personalive.media.portrait import Portrait
from personalive.testing.browser import grab
from personalive.types import RGBArray
from tests.live_support import LiveServer, shows, until

MIDDLE = (0.3, 0.25, 0.7, 0.75)


class Seen:
    """A face wherever the test says: fractions of the picture, or None."""

    def __init__(self):
        self.where = MIDDLE

    def portrait(self, images, shape, wanted):
        image = next(iter(images))
        return image, Portrait(image, None, ())

    def look(self, image):
        return self.follow(image)

    def tracker(self):
        return self

    def follow(self, image):
        height, width = image.shape[:2]
        return self.where and tuple(int(a * b) for a, b in zip(self.where, (width, height) * 2, strict=True))

    def close(self):
        pass


def look_often(server: LiveServer) -> None:
    """Let one address ask for faces as often as it likes."""
    server.hub.looks._per_second = server.hub.looks._most = 1e6


def opened(context: BrowserContext, server: LiveServer, fragment: str = "") -> Page:
    """A new tab with the page, ready."""
    page = context.new_page()
    page.goto(f"{server.url}/{fragment}")
    expect(page.locator("#server")).to_have_text("Ready")
    return page


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def choose(page: Page, name: str) -> None:
    button(page, name).click()
    expect(button(page, name)).to_have_attribute("aria-pressed", "true")


def start(page: Page, name: str) -> None:
    choose(page, name)
    button(page, "Start").click()
    expect(button(page, "Stop")).to_be_enabled()


def result(page: Page, colour: tuple[int, int, int]) -> RGBArray:
    """What is shown, once it is the portrait of this colour."""
    return until(lambda: (image := grab(page, "result")) is not None and shows(image, colour) and image)


def session_of(server: LiveServer) -> Session:
    return until(lambda: next(iter(server.hub.entries.values()), None)).session


def check(page: Page, name: str) -> Locator:
    return page.locator(f'[data-check="{name}"]')
