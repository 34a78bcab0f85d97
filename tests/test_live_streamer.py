"""What happens to streamers: a tab crashes or is hidden, a token is needed, a phone is turned, backgrounds change."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import expect

from personalive.live.core.pictures import filled
from personalive.testing.browser import CHROMIUM, chromium, watch, write_camera
from personalive.testing.echo import EchoEngine
from personalive.testing.pictures import photograph
from tests.live_support import BLUE, GREEN, RED, live_server, picture, until
from tests.page_support import Seen, button, check, choose, look_often, opened, result, session_of, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: ./test.sh does that"),
]


@pytest.fixture
def context(browser, server):
    context = browser.new_context()
    yield context
    context.close()
    until(lambda: not server.hub.entries)


def test_after_a_crash_of_the_tab_everything_is_there_again(context, server):
    page = opened(context, server)
    page.set_input_files("#portrait-file", {"name": "me.png", "mimeType": "image/png", "buffer": picture(GREEN)})
    page.get_by_label("Motion strength").fill("1.25")
    page.get_by_label("Mirror").uncheck()
    start(page, "me")
    result(page, GREEN)
    address = page.locator("#watch-address").input_value()
    with page.expect_event("crash"), contextlib.suppress(PlaywrightError):
        page.goto("chrome://crash")
    page = opened(context, server)
    expect(button(page, "me")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Motion strength")).to_have_value("1.25")
    assert page.locator("#watch-address").input_value() == address
    button(page, "Start").click()
    result(page, GREEN)
    until(lambda: len(server.hub.entries) == 1)  # the one before has ended
    assert not session_of(server).parameters.mirror
    button(page, "Stop").click()


SILENT = """() => {
  const silent = new MediaStream([new MediaStreamTrackGenerator({ kind: "video" })]);
  navigator.mediaDevices.getUserMedia = async () => silent;
}"""


def test_a_camera_that_gives_nothing_and_a_slow_machine_are_explained(browser, presets):
    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12, seconds=0.5)
    with live_server(engine, presets=presets) as server:
        context = browser.new_context()
        context.add_init_script(f"({SILENT})()")
        page = opened(context, server)
        expect(check(page, "speed")).to_have_attribute("data-state", "warn")
        for words in ("Too slow for fluent speech: 8.0 pictures a second", "a machine with an NVIDIA GPU"):
            expect(check(page, "speed")).to_contain_text(words)
        choose(page, "blue")
        button(page, "Start").click()
        expect(page.locator("#notice")).to_contain_text("gives no pictures")
        button(page, "Take a photo").click()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#notice")).to_contain_text("gives no pictures")
        expect(button(page, "Start")).to_be_enabled()
        assert not server.hub.entries
        context.close()


def test_the_picture_floats(context, server):
    page = opened(context, server)
    start(page, "red")
    result(page, RED)
    floating = "() => document.pictureInPictureElement?.id"
    button(page, "Picture in picture").click()
    until(lambda: page.evaluate(floating) == "result")
    button(page, "Picture in picture").click()
    until(lambda: page.evaluate(floating) is None)


HIDDEN = """() => {
  for (const name of ["setTimeout", "setInterval"]) {
    const own = window[name];
    window[name] = (call, ms = 0, ...given) => own(call, Math.max(ms, 1000), ...given);
  }
  window.requestAnimationFrame = () => 0;
  window.seconds = 0;
  setInterval(() => (window.seconds += 1), 1000);
}"""
"""What a browser does to a hidden page. Playwright keeps every page visible."""


def test_a_hidden_tab_goes_on_at_full_rate(context, server):
    context.add_init_script(f"({HIDDEN})()")
    page = opened(context, server)
    page.locator("summary", has_text="More settings").click()
    page.get_by_label("Way to the server").select_option("websocket")
    start(page, "red")
    result(page, RED)
    statistics = session_of(server).statistics
    frames, seconds = statistics.frames_in, page.evaluate("window.seconds")
    until(lambda: page.evaluate("window.seconds") >= seconds + 3)
    assert statistics.frames_in - frames > 5 * 3


def test_a_page_with_a_token_works_after_a_reload_and_without_one_says_so(browser, presets):
    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12, seconds=0.02)
    with live_server(engine, presets=presets, linger_seconds=1, tokens=("a long secret",)) as server:
        context = browser.new_context()
        stranger = context.new_page()
        stranger.goto(server.url)
        expect(stranger.locator("#server")).to_contain_text("needs a token")
        page = opened(context, server, "#token=a%20long%20secret")
        assert "secret" not in page.url
        choose(page, "blue")
        page.reload()
        expect(button(page, "blue")).to_have_attribute("aria-pressed", "true")
        button(page, "Start").click()
        result(page, BLUE)
        viewer = browser.new_context().new_page()
        viewer.goto(page.locator("#watch-address").input_value())
        result(viewer, BLUE)
        viewer.context.close()
        context.close()
        until(lambda: not server.hub.entries)


PHONE = """() => {
  window.asked = [];
  window.locks = 0;
  const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
  const camera = (label) => ({ kind: "videoinput", label, deviceId: label });
  devices.enumerateDevices = async () => [camera("front"), camera("back")];
  devices.getUserMedia = async ({ video }) => {
    const stream = await open({ video: true }), [track] = stream.getVideoTracks();
    const facingMode = video.facingMode?.exact ?? "user";
    window.asked.push(facingMode);
    track.getSettings = () => ({ facingMode });
    return stream;
  };
  const request = async () => ((window.locks += 1), { release() {} });
  Object.defineProperty(navigator, "wakeLock", { value: { request } });
}"""
"""A phone: two cameras, of which each says where it looks, and a screen that can be kept on."""


def test_a_phone_turns_its_camera_round_is_turned_itself_and_stays_awake(browser, server):
    upright, lying = {"width": 390, "height": 844}, {"width": 844, "height": 390}
    context = browser.new_context(viewport=upright, has_touch=True, is_mobile=True, device_scale_factor=2)
    context.add_init_script(f"({PHONE})()")
    page = opened(context, server)
    start(page, "red")
    result(page, RED)
    session = session_of(server)
    assert session.parameters.mirror and page.evaluate("() => window.locks") == 1
    button(page, "Turn the camera round").tap()
    until(lambda: not session.parameters.mirror)
    assert page.evaluate("() => window.asked.at(-1)") == "environment"
    expect(page.get_by_label("Mirror")).not_to_be_checked()
    button(page, "Turn the camera round").tap()
    until(lambda: session.parameters.mirror)
    assert page.evaluate("() => window.asked.at(-1)") == "user"
    for turned in (lying, upright):
        page.set_viewport_size(turned)
        until(lambda turned=turned: page.evaluate("() => innerWidth") == turned["width"])
        assert page.evaluate("() => document.documentElement.scrollWidth") <= turned["width"]
        page.locator("#result-pane").scroll_into_view_if_needed()
        box = page.locator("#result-pane").bounding_box()
        assert box["width"] <= turned["width"] and box["height"] <= turned["height"]
        places = watch(page, 3)["result"][:, 1]
        assert np.ptp(places[places >= 0]) > 0.05, "it goes on"
    context.close()
    until(lambda: not server.hub.entries)


@pytest.fixture(scope="module")
def portrayed(playwright, tmp_path_factory):
    """A browser with a photographed person before its camera, whom the echo model passes through."""
    frames = np.repeat(filled(photograph(), 256, 256)[None], 25, axis=0)
    camera = write_camera(tmp_path_factory.mktemp("person") / "camera.mjpeg", frames, 25)
    with chromium(playwright, camera) as running:
        yield running


PIXELS = """() => {
  const canvas = document.getElementById("shown"), { width, height } = canvas;
  const pixel = (x, y) => [...canvas.getContext("2d").getImageData(x * width, y * height, 1, 1).data];
  return { corner: pixel(0.03, 0.03), face: pixel(0.56, 0.27), size: [width, height] };
}"""


def test_viewers_see_the_background_that_was_chosen(portrayed, presets):
    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12, seconds=0.02)
    with live_server(engine, Seen(), presets=presets, linger_seconds=1) as server:
        look_often(server)
        context = portrayed.new_context()
        page = opened(context, server)
        start(page, "red")
        result(page, RED)
        viewer = portrayed.new_context().new_page()
        viewer.goto(page.locator("#watch-address").input_value())

        def seen(corner, face=lambda pixel: pixel[3] == 255 and sum(pixel[:3]) > 60):
            def as_expected():
                pixels = viewer.evaluate(PIXELS)
                return pixels["size"] == [256, 256] and corner(pixels["corner"]) and face(pixels["face"])

            until(as_expected)

        def near(colour):
            return lambda pixel: pixel[3] == 255 and np.abs(np.array(pixel[:3]) - colour).max() < 40

        background = page.get_by_label("Background", exact=True)
        seen(near(RED))
        background.select_option("transparent")
        seen(lambda pixel: pixel[3] == 0)
        expect(page.locator("#background-cost")).to_contain_text("ms for it")
        viewer.evaluate("""() => {
          window.drawn = 0;
          const video = document.getElementById("result");
          const count = () => { window.drawn += 1; video.requestVideoFrameCallback(count); };
          video.requestVideoFrameCallback(count);
        }""")
        until(lambda: viewer.evaluate("() => window.drawn") > 30)
        background.select_option("colour")
        seen(near((0x00, 0xB1, 0x40)))
        background.select_option("picture")
        file = {"name": "sky.png", "mimeType": "image/png", "buffer": picture(BLUE, (640, 200))}
        page.set_input_files("#backdrop-file", file)
        seen(near(BLUE))
        expect(page.get_by_alt_text("The picture behind the portrait")).to_be_visible()
        page.reload()
        expect(page.get_by_alt_text("The picture behind the portrait")).to_be_visible()
        button(page, "Start").click()
        result(page, BLUE)
        seen(near(BLUE))
        background.select_option("as_is")
        seen(near(RED))
        viewer.context.close()
        context.close()
        until(lambda: not server.hub.entries)
