"""The page as a new user meets it, in Chromium, with a driving file as the camera."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, expect

from personalive.live.hub.entries import SessionState
from personalive.testing.browser import CHROMIUM, WATCH, chromium, followed, grab, watch
from personalive.testing.echo import EchoEngine
from personalive.types import RGBArray
from tests.live_support import BLUE, GREEN, RED, live_server, picture, shows, until

ROOT = Path(__file__).parents[1]
SECONDS = 1.5
"""Before and after the end of a browser, in which another's pictures are looked at."""
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: ./test.sh does that")


@pytest.fixture
def page(browser, server):
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.url)
    yield page
    context.close()
    assert not problems
    until(lambda: not server.hub.entries)


def start(page: Page, portrait: str) -> None:
    page.get_by_role("button", name=portrait, exact=True).click()
    expect(page.get_by_role("button", name=portrait, exact=True)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()


def more(page: Page) -> Page:
    """The page, with the settings that few change."""
    page.locator("summary", has_text="More settings").click()
    return page


def result(page: Page, colour) -> RGBArray:
    def shown():
        image = grab(page, "result")
        return image if image is not None and shows(image, colour) else None

    return until(shown)


def test_a_new_user_animates_a_portrait_replaces_it_records_and_stops(page, tmp_path):
    expect(page.locator("#server")).to_have_text("Ready")
    start(page, "red")
    result(page, RED)
    expect(page.locator("#transport")).to_have_text("WebRTC")
    page.get_by_label("Mirror").uncheck()
    page.wait_for_timeout(1000)
    seen = watch(page, 5)
    assert followed(seen["driver"], seen["result"])[0] > 0.9, "the picture follows the driver"

    expect(page.locator("#delay")).to_have_text(re.compile(r"\d\.\d\d s"))
    page.get_by_role("button", name="blue", exact=True).click()
    result(page, BLUE)

    page.get_by_role("button", name="Record").click()
    page.wait_for_timeout(2500)
    with page.expect_download() as download:
        page.get_by_role("button", name="Record").click()
    recording = tmp_path / download.value.suggested_filename
    download.value.save_as(recording)
    with av.open(str(recording)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert recording.suffix == ".webm" and len(frames) > 10 and shows(frames[-1], BLUE)

    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start")).to_be_enabled()
    expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.slow
def test_pause_reset_mirror_and_parameters_reach_the_session(page, server):
    start(page, "green")
    result(page, GREEN)
    session = next(iter(server.hub.entries.values())).session
    page.get_by_role("button", name="Pause").click()
    until(lambda: session.parameters.paused)
    page.wait_for_timeout(500)
    still = grab(page, "result")
    page.wait_for_timeout(700)
    assert np.abs(grab(page, "result").astype(int) - still).mean() < 2
    page.get_by_role("button", name="Pause").click()
    until(lambda: not session.parameters.paused)
    assert session.parameters.mirror
    page.get_by_label("Mirror").uncheck()
    until(lambda: not session.parameters.mirror)
    page.get_by_label("Motion strength").fill("0.5")
    until(lambda: session.parameters.motion_strength == 0.5)
    threshold = more(page).get_by_label("Keyframe threshold")
    expect(threshold).to_have_value("17")  # the model's
    threshold.fill("1001")
    threshold.blur()
    threshold.fill("13.75")
    threshold.blur()
    until(lambda: session.parameters.keyframe_threshold == 13.75)
    page.get_by_label("Keep the portrait's").select_option(["roll", "scale"])
    until(lambda: session.parameters.keep == ("roll", "scale"))
    page.get_by_label("Keep the portrait's").select_option([])
    until(lambda: session.parameters.keep == ())
    page.get_by_label("Motion", exact=True).select_option("relative")
    until(lambda: session.parameters.motion == "relative")
    page.get_by_role("button", name="Reset").click()
    until(lambda: session._animation._stream.resets == 1)
    page.get_by_role("button", name="This is neutral").click()
    until(lambda: session._animation._stream.anchors == 1)


def test_controls_are_those_that_the_server_describes(page, server):
    with server.client() as http:
        described = http.get("/api/v1/pipelines/schemas").json()["pipelines"]["personalive"]["parameters_schema"]
    expect(more(page).get_by_label("Seed")).to_be_visible()
    shown = page.locator("[data-parameter]").evaluate_all(
        "(all) => all.map((each) => [each.dataset.parameter, each.type, each.min, each.max, each.step, each.value])"
    )
    own = {"mirror", "paused", "hidden", "muted", "reset_cache", "set_neutral"}
    assert {row[0] for row in shown} == set(described["properties"]) - own
    for name, kind, low, high, step, value in shown:
        about = described["properties"][name]
        if about["type"] == "boolean":
            assert kind == "checkbox"
            continue
        if about["type"] == "string" and "enum" not in about:
            assert (kind, value) == ("color", about["default"])
            continue
        if "enum" in about or about["type"] == "array":
            assert kind == ("select-one" if "enum" in about else "select-multiple")
            assert value == (about["default"] or "")
            continue
        assert (float(low), float(high)) == (about["minimum"], about["maximum"]), name
        assert kind == ("range" if "step" in about else "number")
        assert step == str(about.get("step", 1 if about["type"] == "integer" else "any"))
        assert value == (str(about["default"]).removesuffix(".0") if "default" in about else ""), name


@pytest.mark.slow
def test_two_people_see_only_their_own_portrait_and_one_may_vanish(playwright, camera, page, server):
    start(page, "red")
    with chromium(playwright, camera) as second:
        other = second.new_page()
        other.goto(server.url)
        start(other, "blue")
        result(page, RED)
        result(other, BLUE)
        other.evaluate(WATCH)
        page.evaluate(WATCH)
        page.wait_for_timeout(2500)
        theirs = np.array(other.evaluate("window.seen.result"))
    page.wait_for_timeout(2500)
    mine = np.array(page.evaluate("window.seen.result"))
    assert len(theirs) > 8 and np.abs(theirs[:, 2:] - BLUE).max() < 60
    assert len(mine) > 20 and np.abs(mine[:, 2:] - RED).max() < 60


@pytest.mark.slow
def test_a_browser_that_is_killed_leaves_no_gap_in_the_other_s_pictures(playwright, camera, presets):
    """By arrival at a client in a process of its own: two Chromiums that share two cores skip pictures at any time.

    A gap that the server makes comes with every kill, and only then. One that other work on the machine makes comes at
    any time: so the better of two kills counts, beside the longest gap while nobody was killed.
    """
    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12, seconds=0.02)
    with live_server(engine, presets=presets, max_sessions=4, linger_seconds=1) as server:
        command = [sys.executable, "-m", "tests.live_recorder", server.url, *map(str, RED)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as recorder:
            assert recorder.stdout.readline().startswith("ready ")
            kills = [start_and_kill(playwright, camera, server.url) for _ in range(2)]
            recorded = json.loads(recorder.communicate(timeout=60)[0])
        until(lambda: not server.hub.entries, 45)
    assert recorded["own"]
    times = np.array(recorded["times"])
    gaps, ends = np.diff(times), times[1:]
    after = [(ends > kill) & (ends < kill + SECONDS) for kill in kills]
    usual = gaps[~np.any(after, axis=0)]
    assert min(each.sum() for each in after) > 10 and len(usual) > 10
    assert min(gaps[each].max() for each in after) <= 2 * usual.max()


def start_and_kill(playwright, camera: Path, url: str) -> float:
    """Use the page in a browser of its own until its pictures come, then kill that; gives the time of the kill."""
    known = chromiums()
    with contextlib.suppress(PlaywrightError), chromium(playwright, camera) as browser:
        page = browser.new_page()
        page.goto(url)
        start(page, "blue")
        result(page, BLUE)
        time.sleep(SECONDS)
        killed = time.monotonic()
        for process in chromiums() - known:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    time.sleep(SECONDS)  # the next browser's start would take the cores
    return killed


def chromiums() -> set[psutil.Process]:
    """Processes of the browsers that this test started."""
    return {each for each in psutil.Process().children(recursive=True) if "chrom" in each.name()}


@pytest.mark.slow
def test_the_socket_carries_the_same_session(page):
    more(page).get_by_label("Way to the server").select_option("websocket")
    start(page, "green")
    result(page, GREEN)
    expect(page.locator("#transport")).to_have_text("WebSocket")
    page.get_by_label("Mirror").uncheck()

    def follows() -> bool:
        seen = watch(page, 5)
        return followed(seen["driver"], seen["result"])[0] > 0.9

    until(follows, 60)  # while other programs take the cores, pictures come late, and not evenly


TIMERS = """() => {
  window.running = new Set();
  const tell = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (given) {
    if (given.ms === 50) window.running.add(given.id);
    else if (given.ms === 0) window.running.delete(given.id);
    tell.call(this, given);
  };
}"""


@pytest.mark.slow
def test_a_chosen_rate_does_not_send_every_frame_twice_over_the_socket(page):
    more(page).get_by_label("Way to the server").select_option("websocket")
    page.locator("#parameter-fps").evaluate("""(input) => {
      input.value = 20;
      for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, { bubbles: true }));
    }""")
    page.evaluate(TIMERS)
    start(page, "green")
    result(page, GREEN)
    assert page.evaluate("window.running.size") == 1
    page.get_by_role("button", name="Stop").click()
    page.wait_for_function("window.running.size === 0")


@pytest.mark.slow
def test_embed_shows_only_the_picture(page, browser):
    start(page, "blue")
    result(page, BLUE)
    viewer = browser.new_context().new_page()
    viewer.goto(page.locator("#embed").evaluate("(link) => link.href"))
    result(viewer, BLUE)
    assert viewer.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
    viewer.context.close()


HIDINGS = """() => {
  const video = document.getElementById("result");
  window.hidings = 0;
  new MutationObserver(() => (window.hidings += video.hidden)).observe(video, { attributeFilter: ["hidden"] });
}"""


@pytest.mark.slow
def test_the_page_comes_back_to_its_session_and_viewers_see_nothing_meanwhile(page, browser, server, monkeypatch):
    monkeypatch.setattr(server.hub, "options", server.hub.options.replace(linger_seconds=60))
    start(page, "blue")
    viewer = browser.new_context().new_page()
    viewer.goto(page.locator("#embed").evaluate("(link) => link.href"))
    result(viewer, BLUE)
    viewer.evaluate(HIDINGS)
    (entry,) = server.hub.entries.values()
    before = entry.transport
    asyncio.run_coroutine_threadsafe(before.close(), server.loop).result(20)  # as of one that has vanished
    until(lambda: entry.state is SessionState.CONNECTED and entry.transport is not before)
    result(page, BLUE)
    result(viewer, BLUE)
    assert viewer.evaluate("window.hidings") == 1
    expect(page.locator("#notice")).to_be_hidden()
    assert list(server.hub.entries.values()) == [entry]
    viewer.context.close()


@pytest.mark.slow
def test_portraits_come_by_file_paste_and_photo(page, server):
    page.set_input_files("#portrait-file", {"name": "me.png", "mimeType": "image/png", "buffer": picture(GREEN)})
    expect(page.locator("#still")).to_be_visible()
    page.set_input_files("#portrait-file", {"name": "me.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.locator("#notice")).to_contain_text("not a picture that can be read")
    before = page.locator("#still").get_attribute("src")
    page.get_by_role("button", name="Take a photo").click()
    expect(page.locator("#still")).not_to_have_attribute("src", before)
    expect(page.locator("#notice")).to_be_hidden()
    page.evaluate(
        """async (bytes) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" }));
        document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data })); }""",
        list(picture(RED)),
    )
    page.get_by_role("button", name="Start").click()
    result(page, RED)
    page.evaluate(
        """async (bytes) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "of a type that the browser does not know.heic"));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: data })); }""",
        list(picture(BLUE)),
    )
    result(page, BLUE)


def test_a_full_server_and_a_missing_camera_are_explained(playwright, server):
    with chromium(playwright, None) as without_camera:
        lonely = without_camera.new_page()
        lonely.goto(server.url)
        expect(lonely.locator("#server")).to_have_text("Ready")
        lonely.get_by_role("button", name="red", exact=True).click()
        expect(lonely.get_by_role("button", name="red", exact=True)).to_have_attribute("aria-pressed", "true")
        lonely.get_by_role("button", name="Start").click()
        expect(lonely.locator("#notice")).to_contain_text("No camera was found")


def test_the_page_works_on_a_phone_and_with_the_keyboard(browser, server):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#server")).to_have_text("Ready")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="red", exact=True).press("Enter")
    expect(page.get_by_role("button", name="red", exact=True)).to_have_attribute("aria-pressed", "true")
    page.locator("h1").click()  # the focus begins at the top
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "start":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    context.close()
    until(lambda: not server.hub.entries)
