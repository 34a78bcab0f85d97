"""The page and its viewers when the process that animates is killed: they go on in another one by themselves."""

import os
import signal
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from personalive.testing.browser import CHROMIUM, chromium, grab, moving_bar, write_camera
from tests.front_support import front
from tests.live_support import BLUE, picture, shows, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: ./test.sh does that"),
]


@pytest.fixture
def server(tmp_path):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "blue.png").write_bytes(picture(BLUE))
    with front(tmp_path, presets=tmp_path / "presets") as running:
        yield running


def sees(page):
    """Whether a page shows the portrait now, and it is there to be seen."""
    image = grab(page, "result")
    return image is not None and shows(image, BLUE) and page.locator("#result").is_visible()


@pytest.mark.parametrize("way", ["webrtc", "websocket"])
def test_the_page_and_its_viewers_go_on_when_the_worker_is_killed(server, tmp_path, way):
    camera = write_camera(tmp_path / "camera.mjpeg", moving_bar(), 25)
    with sync_playwright() as playwright, chromium(playwright, camera) as browser:
        page, viewer = browser.new_context().new_page(), browser.new_context().new_page()
        page.goto(server.url)
        page.locator("#way").evaluate(f"(select) => {{ select.value = '{way}'; }}")
        page.get_by_role("button", name="blue", exact=True).click()
        page.locator("#mirror").uncheck()
        page.get_by_role("button", name="Start").click()
        until(lambda: sees(page))
        link = page.locator("#embed").evaluate("(link) => link.href")
        viewer.goto(link)
        until(lambda: sees(viewer))
        victim = next(each for each in server.workers() if each["sessions"])
        viewer.evaluate(
            """() => { window.hidden = 0; const result = document.getElementById("result");
            new MutationObserver(() => { window.hidden += result.hidden; }).observe(result, { attributes: true }); }"""
        )
        os.kill(victim["pid"], signal.SIGKILL)
        expect(page.locator("#notice")).to_contain_text("goes on in another one", timeout=60_000)
        until(lambda: sees(page))
        expect(page.get_by_role("button", name="Stop")).to_be_enabled()
        until(lambda: viewer.evaluate("window.hidden") > 0)
        until(lambda: sees(viewer))
        assert page.locator("#embed").evaluate("(link) => link.href") == link
        (session,) = [each for each in server.workers() if each["sessions"]]
        assert session["pid"] != victim["pid"]
        page.get_by_role("button", name="Stop").click()
        until(lambda: server.busy() == [0, 0])
