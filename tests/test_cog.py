"""The HTTP service, as a client meets it: Cog's real server, and ours in front of it."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from personalive.animate.job import animate
from personalive.media.video_reader import probe, read_frames
from personalive.settings import AnimateOptions
from personalive.testing.pictures import faceless, moving_face, save_image
from tests.endpoint_support import BEYOND, WAIT, data_url, endpoint, receiver, short_inputs, wait_for

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server(small_model_folder, tmp_path_factory):
    with endpoint(small_model_folder, tmp_path_factory.mktemp("cog") / "temporary") as running:
        running.wait_until_loaded()
        yield running


@pytest.fixture(scope="module")
def inputs(portrait, tmp_path_factory):
    return short_inputs(portrait, tmp_path_factory.mktemp("short"))


def content_of(url, kind="video/mp4"):
    head, _, content = url.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(content)


def frames_in(content, path):
    path.write_bytes(content)
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)), bool(container.streams.audio)


def test_committed_schema_is_the_generated_one():
    done = subprocess.run(
        [sys.executable, "-m", "cog.command.openapi_schema"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    committed = (ROOT / ".cog" / "openapi_schema.json").read_text()
    assert json.loads(done.stdout) == json.loads(committed), (
        "run: python -m cog.command.openapi_schema >.cog/openapi_schema.json"
    )


def test_every_input_is_described_and_none_reaches_into_the_server():
    schemas = json.loads((ROOT / ".cog" / "openapi_schema.json").read_text())["components"]["schemas"]
    given = schemas["Input"]["properties"]
    assert all(value["description"] for value in given.values())
    assert schemas["Input"]["required"] == ["ref_image", "driving_video"]
    assert not {"output", "model", "device", "dtype", "attention", "overwrite"} & set(given)
    for name, value in given.items():
        if value.get("type") in ("integer", "number"):
            assert {"minimum", "maximum"} <= set(value), name


def test_index_names_paths_that_there_are(server):
    index = httpx.get(server.url, timeout=WAIT).json()
    described = httpx.get(f"{server.url}{index['openapi_url']}", timeout=WAIT).json()["paths"]
    assert {path for name, path in index.items() if name != "openapi_url"} <= set(described)


def test_prediction_by_data_url(server, inputs, tmp_path):
    answer = server.post(inputs).json()
    assert answer["status"] == "succeeded", answer
    assert frames_in(content_of(answer["output"]), tmp_path / "out.mp4") == (5, True)
    assert "seed: 42" in answer["logs"]
    assert "done: 5 frames" in answer["logs"]


def test_every_option_arrives(server, inputs, tmp_path):
    options: dict[str, Any] = {
        "width": 320,
        "height": 256,
        "max_frames": 3,
        "steps": 8,
        "seed": 7,
        "fps": 50,
        "no_audio": True,
    }
    options |= {"crop": "none", "motion_strength": 0.5, "face_boxes": "keypoints", "side_by_side": True}
    answer = server.post(inputs | options | {"keyframe_threshold": 2.5}).json()
    assert answer["status"] == "succeeded", answer
    path = tmp_path / "out.mp4"
    assert frames_in(content_of(answer["output"]), path) == (3, False)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (960, 256, 50)
        assert "seed 7" in container.metadata["comment"]
    assert "3 of 10 frames used" in answer["logs"]


@pytest.mark.slow
def test_a_picture_and_a_motion_file_drive_too(server, inputs, small_model, portrait, driver, tmp_path):
    asked = AnimateOptions(max_frames=5, save_motion=tmp_path / "kept.motion")
    list(animate(small_model, portrait, driver, tmp_path / "kept.mp4", asked))
    motion = data_url((tmp_path / "kept.motion").read_bytes(), "application/octet-stream")
    answer = server.post(inputs | {"driving_video": motion}).json()
    assert answer["status"] == "succeeded", answer
    assert frames_in(content_of(answer["output"]), tmp_path / "motion.mp4") == (5, False)
    assert "the result has no sound: driver.mp4" in answer["logs"]
    picture = {"driving_video": inputs["ref_image"], "duration": "0.2", "still": "ease"}
    answer = server.post({**inputs, **picture}).json()
    assert answer["status"] == "succeeded", answer
    assert frames_in(content_of(answer["output"]), tmp_path / "still.mp4") == (5, False)


@pytest.mark.parametrize(
    ("output_format", "kind"),
    [
        ("webm", "video/webm"),
        pytest.param("gif", "image/gif", marks=pytest.mark.slow),
        pytest.param("webp", "image/webp", marks=pytest.mark.slow),
    ],
)
def test_the_kind_of_result_is_chosen_and_holds_the_whole_portrait(server, inputs, tmp_path, output_format, kind):
    wide = np.full((403, 522, 3), 120, np.uint8)
    wide[80:336, 40:296] = moving_face(1)[0]
    picture = save_image(tmp_path / "wide.png", wide)
    more = {"ref_image": data_url(picture, "image/png"), "output_format": output_format, "paste_back": True}
    answer = server.post(inputs | more).json()
    assert answer["status"] == "succeeded", answer
    content = content_of(answer["output"], kind)
    if output_format == "webm":
        assert frames_in(content, tmp_path / "out.webm") == (5, True)
        (size,) = {frame.shape[1::-1] for frame in read_frames(probe(tmp_path / "out.webm"))}
        assert size == (522, 402)
    else:
        with Image.open(io.BytesIO(content)) as image:
            assert (image.n_frames, image.size) == (5, (522, 403))


def test_a_codec_that_the_kind_does_not_have_fails_and_says_which_it_has(server, inputs):
    answer = server.post(inputs | {"output_format": "webm", "codec": "h264"}).json()
    assert answer["status"] == "failed" and "it takes vp9 or av1" in answer["error"]


def test_values_beyond_the_bounds_are_422(server, inputs):
    for name, value in BEYOND:
        answer = server.post(inputs | {name: value})
        assert answer.status_code == 422, (name, value, answer.text[:200])
        assert name in json.dumps(answer.json()["detail"])


def test_missing_inputs_and_broken_json_are_refused(server, inputs):
    for name in inputs:
        answer = server.post({key: value for key, value in inputs.items() if key != name})
        assert answer.status_code == 422 and name in answer.text
    for body in (b"{", b'{"input": {"seed": NaN}}', b"[]", b""):
        headers = {"Content-Type": "application/json"}
        assert httpx.post(f"{server.url}/predictions", content=body, headers=headers).status_code in (400, 422)
    assert server.status() == "READY"


@pytest.mark.parametrize("name", ["ref_image", "driving_video"])
@pytest.mark.parametrize("value", ["/etc/passwd", "file:///etc/passwd", "predict.py", "ftp://127.0.0.1/x", "data:x"])
def test_strings_that_are_no_uploads_fail(server, inputs, name, value):
    answer = server.post(inputs | {name: value}).json()
    assert answer["status"] == "failed"
    assert "is not a file" in answer["error"] or "data: URL" in answer["error"]
    assert "root:" not in answer["error"]


@pytest.mark.parametrize("name", ["ref_image", "driving_video"])
def test_an_empty_upload_is_refused(server, inputs, name):
    answer = server.post(inputs | {name: ""})
    assert answer.status_code == 422 and name in answer.text


def test_addresses_inside_are_not_fetched(server, inputs):
    with receiver(b"secret") as web:
        port = web.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "10.0.0.1"):
            answer = server.post(inputs | {"ref_image": f"http://{host}:{port}/picture.png"}).json()
            assert answer["status"] == "failed", host
            assert "not public" in answer["error"] or "cannot be fetched" in answer["error"]
        assert web.requests == []


def test_failure_says_why(server, inputs, tmp_path):
    grey = save_image(tmp_path / "grey.png", faceless())
    answer = server.post(inputs | {"ref_image": data_url(grey, "image/png")}).json()
    assert answer["status"] == "failed"
    assert "no face was found in the reference" in answer["error"]
    text = "data:text/plain;base64," + base64.b64encode(b"no picture").decode()
    answer = server.post(inputs | {"driving_video": text}).json()
    assert answer["status"] == "failed" and "not a video" in answer["error"]


def test_null_is_the_default_where_there_is_none(server, inputs):
    answer = server.post(inputs | {"width": None, "fps": None, "keyframe_threshold": None, "ref_image": "nonsense"})
    assert answer.status_code == 200, answer.text
    assert server.post(inputs | {"seed": None}).status_code == 422


@pytest.mark.slow
def test_wrong_model_fails_in_setup_and_says_why(tmp_path):
    with endpoint(tmp_path / "nowhere", tmp_path / "temporary") as running:
        wait_for(lambda: running.status() == "SETUP_FAILED")
        logs = httpx.get(f"{running.url}/health-check", timeout=WAIT).json()["setup"]["logs"]
        assert running.post({}).status_code in (422, 503)
    assert "nowhere" in logs


@pytest.fixture(scope="module")
def bare(small_model_folder, tmp_path_factory):
    """What an image runs that `cog build` made: Cog's server alone."""
    folder = tmp_path_factory.mktemp("bare") / "temporary"
    with endpoint(small_model_folder, folder, bare=True, PERSONALIVE_ALLOW_PRIVATE_URLS="1") as running:
        running.wait_until_loaded()
        yield running


@pytest.mark.slow
@pytest.mark.slow
def test_cogs_server_alone_makes_the_same(bare, server, inputs, portrait):
    """With a file from the web, here from loopback, which this server's operator allows."""
    with receiver(portrait.read_bytes()) as web:
        answer = bare.post(inputs | {"ref_image": f"{web.url}/portrait.png"}).json()
        assert answer["status"] == "succeeded", answer
        assert ("GET", "/portrait.png", b"") in web.requests
    assert answer["output"] == server.post(inputs).json()["output"]


@pytest.mark.slow
def test_cogs_server_alone_survives_quick_failures_and_says_nothing_of_itself(bare, inputs):
    """Its slot is not free at once, and it would lose it to a prediction that ends at once."""
    for _ in range(10):
        wait_for(lambda: bare.status() == "READY")
        error = bare.post(inputs | {"driving_video": data_url(b"no video", "video/mp4")}).json()["error"]
        assert str(bare.folder) not in error
    wait_for(lambda: bare.status() == "READY")


@pytest.mark.slow
def test_cogs_server_alone_leaves_no_input_behind(bare):
    assert not list(bare.folder.rglob("personalive-inputs-*"))
