"""OBS Studio as Debian packages it, showing a live session: pictures for the documentation.

    python -m benchmarks.obs [--model demo] [--folder docs/images]

Needs obs-studio, xvfb, openbox, xdotool and chromium. Debian's OBS has no browser source, so a browser's window with
the watch address is captured, and its background keyed out. Everything runs on a virtual screen, with a configuration
of its own. OBS captures single windows only with a graphics card: here it captures a part of the screen.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageGrab
from playwright.sync_api import Page, sync_playwright

from benchmarks.page import SERVE, choose_and_start, driving_file, served, wait_until_driven
from personalive.testing.browser import CHROMIUM, chromium

DISPLAY = ":97"
WINDOW = (1280, 800)
"""Of OBS, in the left part of the screen; the captured window is in its right part."""
SCREEN = (1824, 800)
SIDE = 512
"""Pixels of the captured window."""
SOURCE = "PersonaLive"
KEY_COLOUR = "#00b140"
PATIENCE_SECONDS = 120


def scene() -> dict[str, Any]:
    """A scene collection of OBS: a plain backdrop, and before it the captured window with its colour keyed out."""
    red, green, blue = (int(KEY_COLOUR[index : index + 2], 16) for index in (1, 3, 5))
    keyed = {
        "id": "chroma_key_filter_v2",
        "name": "Chroma Key",
        "enabled": True,
        "settings": {"key_color_type": "custom", "key_color": red | green << 8 | blue << 16, "similarity": 250},
    }
    cut = {"cut_left": WINDOW[0], "cut_right": SCREEN[0] - WINDOW[0] - SIDE, "cut_bot": SCREEN[1] - SIDE}
    captured = {
        "id": "xshm_input",
        "name": SOURCE,
        "settings": {"screen": 0, "show_cursor": False, **cut},
        "filters": [keyed],
    }
    backdrop = {
        "id": "color_source_v3",
        "name": "Backdrop",
        "settings": {"color": 0xFF7A4B2C, "width": WINDOW[0], "height": 720},
    }
    items = [
        {"name": "Backdrop", "id": 1, "visible": True, "pos": {"x": 0.0, "y": 0.0}, "scale": {"x": 1.0, "y": 1.0}},
        {"name": SOURCE, "id": 2, "visible": True, "pos": {"x": 384.0, "y": 208.0}, "scale": {"x": 1.0, "y": 1.0}},
    ]
    shown = {"id": "scene", "name": "Scene", "settings": {"id_counter": 2, "items": items}}
    return {
        "name": "Live",
        "current_scene": "Scene",
        "current_program_scene": "Scene",
        "scene_order": [{"name": "Scene"}],
        "sources": [backdrop, captured, shown],
    }


def configure(home: Path) -> None:
    """What OBS writes after its first start, with our scene in it."""
    folder = home / "obs-studio"
    (folder / "basic/scenes").mkdir(parents=True)
    (folder / "basic/profiles/Live").mkdir(parents=True)
    (folder / "basic/scenes/Live.json").write_text(json.dumps(scene()))
    size = f"BaseCX={WINDOW[0]}\nBaseCY=720\nOutputCX={WINDOW[0]}\nOutputCY=720\n"
    (folder / "basic/profiles/Live/basic.ini").write_text(f"[General]\nName=Live\n[Video]\n{size}")
    names = "Profile=Live\nProfileDir=Live\nSceneCollection=Live\nSceneCollectionFile=Live\n"
    (folder / "global.ini").write_text(
        f"[General]\nFirstRun=true\nEnableAutoUpdates=false\nLastVersion=486539264\nInfoIncrement=99\n[Basic]\n{names}"
    )


@contextlib.contextmanager
def process(*command: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program on the virtual screen, until the block ends."""
    environment = {**os.environ, "DISPLAY": DISPLAY, "LIBGL_ALWAYS_SOFTWARE": "1", **settings}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(10)
        running.kill()


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something, and return it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise SystemExit(f"something did not happen within {PATIENCE_SECONDS} seconds")


def tool(*command: str) -> str:
    """What a program of the virtual screen says."""
    done = subprocess.run(command, env={**os.environ, "DISPLAY": DISPLAY}, capture_output=True, text=True)
    return done.stdout.strip()


def go_on_air(page: Page, url: str) -> str:
    """Start as a streamer does; returns the watch address."""
    page.goto(url)
    page.get_by_label("Background", exact=True).select_option("colour")
    choose_and_start(page, "Carla")
    wait_until_driven(page)
    return page.locator("#watch-address").input_value()


def photograph(path: Path) -> None:
    """What is shown of OBS."""
    picture: Image.Image = ImageGrab.grab(bbox=(0, 0, *WINDOW), xdisplay=DISPLAY)
    picture.save(path)


def record(url: str, folder: Path, work: Path) -> None:
    """Let OBS show a session, and take the picture."""
    with (
        sync_playwright() as playwright,
        chromium(playwright, driving_file(work)) as browser,
        process("Xvfb", DISPLAY, "-screen", "0", f"{SCREEN[0]}x{SCREEN[1]}x24"),
    ):
        until(lambda: tool("xdpyinfo"))
        address = go_on_air(browser.new_page(), url)
        window = (f"--app={address}", f"--window-size={SIDE},{SIDE}", f"--user-data-dir={work / 'viewer'}")
        quiet = (
            "--no-sandbox",
            "--test-type",
            "--no-first-run",
            "--disable-gpu",
            "--allow-loopback-in-peer-connection",
        )
        with process("openbox"), process(CHROMIUM, *quiet, *window):
            found = until(lambda: tool("xdotool", "search", "--name", "PersonaLive: picture")).splitlines()[-1]
            tool("xdotool", "windowsize", "--sync", found, str(SIDE), str(SIDE))
            tool("xdotool", "windowmove", "--sync", found, str(WINDOW[0]), "0")
            configure(work / "config")
            with process("obs", "--multi", XDG_CONFIG_HOME=str(work / "config")):
                obs = until(lambda: tool("xdotool", "search", "--name", "^OBS ")).splitlines()[-1]
                tool("xdotool", "windowsize", "--sync", obs, *map(str, WINDOW))
                tool("xdotool", "windowmove", obs, "0", "0")
                time.sleep(20)  # a software renderer draws it
                photograph(folder / "obs.png")


def main() -> None:
    """Serve, start and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, personalive or a folder")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    missing = [each for each in ("obs", "Xvfb", "openbox", "xdotool", "xdpyinfo") if shutil.which(each) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as work, served(*SERVE, "--model", options.model) as (url, _):
        record(url, options.folder, Path(work))


if __name__ == "__main__":
    main()
