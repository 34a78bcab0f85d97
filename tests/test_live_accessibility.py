"""The pages by axe-core: no violation in any state, light and dark, large and small."""

from importlib import metadata, util
from pathlib import Path

import pytest
from playwright.sync_api import expect

from personalive.testing.browser import CHROMIUM
from personalive.testing.echo import EchoEngine
from tests.live_support import RED, live_server, picture, until
from tests.page_support import MIDDLE, Seen, button, choose, look_often, result

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: ./test.sh does that"),
    pytest.mark.skipif(util.find_spec("axe_playwright_python") is None, reason="axe-core is not installed"),
]


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core itself, out of the package that brings it."""
    file = next(f for f in metadata.files("axe-playwright-python") or () if f.name == "axe.min.js")
    return Path(str(file.locate())).read_text()


@pytest.fixture(scope="module")
def faces():
    return Seen()


@pytest.fixture(scope="module")
def server(tmp_path_factory, faces):
    presets = tmp_path_factory.mktemp("presets")
    (presets / "red.png").write_bytes(picture(RED))
    engine = EchoEngine(256, 256, chunk_frames=4, delay_frames=12, seconds=0.02)
    with live_server(engine, faces, presets=presets, linger_seconds=1) as running:
        look_often(running)
        yield running


@pytest.mark.parametrize(
    "size, scheme", [((1280, 900), "light"), ((390, 844), "dark")], ids=["light desk", "dark phone"]
)
def test_no_violations_in_any_state(browser, server, faces, axe, size, scheme):
    viewport = {"width": size[0], "height": size[1]}
    # The policy of the page would not let the test put axe into it.
    context = browser.new_context(viewport=viewport, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    page = context.new_page()
    found = {}

    def look(state, page=page):
        violations = page.evaluate("async () => (await axe.run()).violations")
        found.update({f"{state}: {each['id']}": [node["html"] for node in each["nodes"]] for each in violations})

    page.goto(server.url)
    page.add_script_tag(content=axe)
    expect(page.locator("#server")).to_have_text("Ready")
    expect(button(page, "red")).to_be_visible()
    look("first visit")
    button(page, "Start").click()
    expect(page.locator("#notice")).to_be_visible()
    look("error")
    choose(page, "red")
    faces.where = None
    button(page, "Check the camera").click()
    expect(page.locator("#face-state")).to_have_text("No face seen")
    look("no face")
    faces.where = MIDDLE
    for each in page.locator("summary").all():
        each.click()
    page.get_by_label("Motion strength").fill("1.5")
    page.get_by_label("Background", exact=True).select_option("picture")
    look("settings open")
    page.get_by_label("Background", exact=True).select_option("as_is")
    button(page, "Crop…").click()
    expect(page.locator("#crop [data-hint]")).to_contain_text("where the face is seen")
    look("cropping")
    button(page, "Cancel").click()
    button(page, "Start").click()
    result(page, RED)
    page.get_by_role("button", name="About delay").focus()
    look("live")
    viewer = context.new_page()
    viewer.goto(page.locator("#watch-address").input_value())
    viewer.add_script_tag(content=axe)
    result(viewer, RED)
    look("watching", viewer)
    context.close()
    assert not found
    until(lambda: not server.hub.entries)
