"""The page as a streamer uses it: checks before going on air, what is kept, keys, other programs, recordings."""

from io import BytesIO
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from personalive.testing.browser import CHROMIUM
from personalive.testing.echo import EchoEngine
from tests.live_support import BLUE, GREEN, RED, WAIT, live_server, picture, until
from tests.page_support import MIDDLE, Seen, button, check, choose, look_often, opened, result, session_of, start

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: ./test.sh does that")


@pytest.fixture(scope="module")
def faces():
    return Seen()


@pytest.fixture(scope="module")
def server(presets, faces):
    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12, seconds=0.02)
    with live_server(engine, faces, presets=presets, max_sessions=3, linger_seconds=1) as running:
        look_often(running)
        yield running


@pytest.fixture
def context(browser, server, faces):
    faces.where = MIDDLE
    context = browser.new_context(accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
    yield context
    context.close()
    until(lambda: not server.hub.entries)


@pytest.fixture
def page(context, server):
    problems = []
    page = opened(context, server)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    assert not problems


def test_the_page_is_light_and_loads_nothing_from_elsewhere(context, server):
    page, answers = context.new_page(), []
    page.on("response", lambda answer: answers.append(answer))
    first = page.goto(server.url)
    expect(page.locator("#server")).to_have_text("Ready")
    expect(button(page, "red")).to_be_visible()
    policy = first.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert all(each.url.startswith((server.url, f"blob:{server.url}")) for each in answers)
    files = [each for each in answers if each.url.startswith(server.url) and "preset" not in each.url]
    assert len(files) > 15
    assert sum(len(each.body()) for each in files) < 150_000


def test_nobody_goes_on_air_without_a_portrait_or_a_face_unless_they_say_so(page, server, faces):
    button(page, "Start").click()
    expect(page.locator("#notice")).to_contain_text("Choose a portrait first")
    choose(page, "red")
    faces.where = None
    button(page, "Start").click()
    expect(page.locator("#notice")).to_contain_text("No face is seen")
    expect(button(page, "Start anyway")).to_be_enabled()
    assert not server.hub.entries
    faces.where = (0.7, 0.3, 0.95, 0.55)
    expect(page.locator("#face-state")).to_have_text("Face seen: move to the middle")
    expect(page.locator("#notice")).to_be_hidden()
    # Seen as in a mirror: the box is on the other side.
    assert float(page.locator("#guide rect").get_attribute("x")) < 30
    faces.where = MIDDLE
    expect(page.locator("#face-state")).to_have_text("Face seen")
    expect(check(page, "camera")).to_have_attribute("data-state", "good")
    expect(check(page, "speed")).to_have_attribute("data-state", "good")
    button(page, "Start").click()
    result(page, RED)
    faces.where = None
    expect(page.locator("#face-state")).to_have_text("No face seen")
    expect(page.locator("#notice")).to_contain_text("No face is seen")


def test_portraits_and_settings_are_there_after_a_reload(page, server):
    page.set_input_files("#portrait-file", {"name": "me.png", "mimeType": "image/png", "buffer": picture(GREEN)})
    expect(button(page, "me")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Motion strength").fill("1.5")
    expect(page.locator("#parameter-motion_strength-hint")).to_contain_text("distorted")
    page.get_by_label("Mirror").uncheck()
    page.reload()
    expect(button(page, "me")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#still")).to_be_visible()
    expect(page.get_by_label("Motion strength")).to_have_value("1.5")
    expect(page.get_by_label("Mirror")).not_to_be_checked()
    button(page, "Start").click()
    result(page, GREEN)
    parameters = session_of(server).parameters
    assert parameters.motion_strength == 1.5 and not parameters.mirror
    button(page, "Stop").click()
    expect(page.locator("#still")).to_be_visible()
    button(page, "Remove").click()
    expect(button(page, "me")).to_have_count(0)


@pytest.mark.slow
def test_keys_and_other_programs_do_what_the_buttons_do(page, server):
    start(page, "blue")
    result(page, BLUE)
    session = session_of(server)
    for key, name in (("p", "paused"), ("h", "hidden")):
        page.keyboard.press(key)
        until(lambda name=name: getattr(session.parameters, name))
        page.keyboard.press(key)
        until(lambda name=name: not getattr(session.parameters, name))
    page.keyboard.press("3")
    result(page, RED)
    key = page.locator("#key").input_value()
    address = f"{server.url}/api/v1/sessions/current"
    with httpx.Client(base_url=address, headers={"X-Client-Key": key}, timeout=WAIT) as deck:
        assert deck.post("/toggle/hidden").json()["hidden"] is True
        expect(button(page, "Hide")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#result-state")).to_contain_text("hidden")
        assert deck.post("/press", json={"press": "portrait", "number": 2}).status_code == 200
        result(page, GREEN)
        before = session._animation._stream.anchors
        assert deck.post("/press", json={"press": "neutral"}).status_code == 200
        until(lambda: session._animation._stream.anchors == before + 1)
        until(lambda: session.parameters.motion == "relative")
        assert deck.delete(address).status_code == 204
        expect(button(page, "Start")).to_be_enabled()
        assert deck.post("/toggle/paused").status_code == 404


@pytest.mark.slow
def test_a_recording_has_a_duration_and_can_be_seeked(page, tmp_path):
    start(page, "red")
    result(page, RED)
    button(page, "Record").click()
    page.wait_for_timeout(5500)
    with page.expect_download() as download:
        button(page, "Record").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    with av.open(str(file)) as container:
        video = container.streams.video[0]
        container.seek(int(2.5 * av.time_base))
        assert 1 <= next(container.decode(video)).time <= 2.5
        container.seek(0)
        times = [frame.time for frame in container.decode(video)]
        assert len(times) > 20
        assert times[-1] <= container.duration / av.time_base < times[-1] + 1


@pytest.mark.slow
def test_a_recording_that_begins_while_muted_has_the_sound_that_comes_later(page, tmp_path):
    start(page, "red")
    result(page, RED)
    button(page, "Record").click()
    page.wait_for_timeout(2000)
    page.keyboard.press("m")  # Chromium's own microphone beeps once a second
    expect(button(page, "Microphone")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(4000)
    with page.expect_download() as download:
        button(page, "Record").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    with av.open(str(file)) as container:
        sounds = [(frame.time, np.abs(frame.to_ndarray()).max()) for frame in container.decode(audio=0)]
    times, loudness = np.array(sounds, float).T
    assert times[0] < 0.5 and times[-1] > 4
    assert loudness[times < 1.5].max() < 0.01 < loudness.max()


@pytest.mark.slow
def test_a_portrait_is_cropped_in_the_browser(page, server):
    image = np.zeros((200, 100, 3), np.uint8)
    image[:100], image[100:] = RED, BLUE
    data = BytesIO()
    Image.fromarray(image).save(data, "PNG")
    page.set_input_files("#portrait-file", {"name": "two.png", "mimeType": "image/png", "buffer": data.getvalue()})
    expect(button(page, "two")).to_have_attribute("aria-pressed", "true")
    button(page, "Crop…").click()
    canvas = page.locator("#crop canvas")
    expect(page.locator("#crop [data-hint]")).to_contain_text("where the face is seen")
    for _ in range(25):
        canvas.press("ArrowUp")  # the picture goes up: its lower half is left
    button(page, "Use").click()
    button(page, "Start").click()
    result(page, BLUE)
    button(page, "Crop…").click()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 20 + 1.3 * box["height"], steps=8)
    page.mouse.up()
    button(page, "Use").click()
    result(page, RED)


@pytest.mark.slow
def test_two_tabs_keep_their_portraits(context, page, server):
    start(page, "red")
    result(page, RED)
    other = opened(context, server)
    choose(other, "blue")
    page.wait_for_timeout(1000)
    result(page, RED)
    button(page, "Stop").click()
    until(lambda: not server.hub.entries)
    button(page, "Start").click()
    result(page, RED)
    button(other, "Start").click()
    result(other, BLUE)
    result(page, RED)


@pytest.mark.slow
def test_sound_is_off_until_it_is_wanted_and_reaches_viewers(page, browser, server):
    start(page, "red")
    result(page, RED)
    assert page.evaluate("document.getElementById('driver').srcObject.getAudioTracks().length") == 0
    viewer = browser.new_context().new_page()
    viewer.goto(page.locator("#watch-address").input_value())
    result(viewer, RED)
    expect(button(page, "Microphone")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("m")  # Chromium's own microphone beeps once a second
    expect(button(page, "Microphone")).to_have_attribute("aria-pressed", "true")
    until(lambda: page.evaluate("document.getElementById('level').value > 0.3"))
    viewer.evaluate(LISTEN)
    until(lambda: viewer.evaluate("window.loudest > 0.01"))
    page.get_by_label("Microphone", exact=True).select_option("Fake Audio Input 2")
    until(lambda: page.evaluate("document.getElementById('level').value > 0.3"))
    page.keyboard.press("m")
    until(lambda: session_of(server).parameters.muted)
    assert page.evaluate("document.getElementById('level').value") == 0
    viewer.context.close()


LISTEN = """() => {
  window.loudest = 0;
  const context = new AudioContext(), analyser = context.createAnalyser();
  context.createMediaStreamSource(document.getElementById("result").srcObject).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    window.loudest = Math.max(window.loudest, ...samples);
  }, 50);
}"""


@pytest.mark.slow
def test_between_streams_the_still_portrait_is_shown_if_that_is_wanted(page, browser, server):
    start(page, "green")
    result(page, GREEN)
    page.get_by_label("Between streams").select_option("portrait")
    address = page.locator("#watch-address").input_value()
    expect(page.locator("#qr")).to_be_visible()
    page.locator('[data-copy="watch-address"]').click()
    assert page.evaluate("navigator.clipboard.readText()") == address
    viewer = browser.new_context().new_page()
    viewer.goto(address)
    result(viewer, GREEN)
    button(page, "Hide").click()
    expect(viewer.locator("#still")).to_be_visible()
    expect(viewer.locator("#result")).to_be_hidden()
    button(page, "Hide").click()
    expect(viewer.locator("#result")).to_be_visible()
    button(page, "Stop").click()
    expect(viewer.locator("#still")).to_be_visible()
    viewer.context.close()


@pytest.mark.slow
def test_numbers_are_explained_and_bad_values_refused_beside_their_field(page, server):
    page.locator("summary", has_text="More settings").click()
    seed = page.get_by_label("Seed")
    seed.fill("-1")
    expect(page.locator("#parameter-seed-hint")).to_contain_text("from 0 to 4294967295")
    expect(seed).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Lowest delay").check()
    until(lambda: server.hub.loader.state.status == "loaded" and server.hub.loader.state.parameters.width == 256)
    expect(button(page, "Start")).to_be_enabled()
    start(page, "red")
    result(page, RED)
    parameters = session_of(server).parameters
    assert parameters.latency == "low" and parameters.seed == 42
    about = page.get_by_role("button", name="About delay")
    about.focus()
    expect(page.locator("#about-delay")).to_be_visible()
    page.wait_for_function(
        "() => document.querySelector('#graph polyline').getAttribute('points').split(' ').length > 2"
    )
    page.get_by_label("Balanced").check()
    until(lambda: session_of(server).parameters.latency == "balanced")
