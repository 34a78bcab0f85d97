"""Photographs and drawn faces are told apart, and the demo model's users are told what becomes of a photograph."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from personalive import PersonaLive
from personalive.animate.job import animate
from personalive.config import DEMO
from personalive.live.core.model import PersonaLiveEngine
from personalive.live.hub.portrait import prepare
from personalive.media.photograph import is_photograph
from personalive.pipeline import DRAWN_ONLY
from personalive.settings import AnimateOptions
from personalive.testing.pictures import photograph
from personalive.testing.small_model import make_small_model

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "personalive" / "live" / "http" / "static" / "presets"
FACE = 160, 70, 285, 195
DRAWN = [ROOT / "demo" / "portrait.png", *sorted(PRESETS.glob("*.webp"))]


@pytest.mark.parametrize("size", (64, 112, 512))
def test_a_photograph_is_one_at_any_size_and_a_drawn_face_never(size):
    face = Image.fromarray(photograph()).crop(FACE).resize((size, size), Image.Resampling.LANCZOS)
    assert is_photograph(np.asarray(face), (0, 0, size, size))
    for path in DRAWN:
        drawn = np.asarray(Image.open(path).convert("RGB").resize((2 * size, 2 * size), Image.Resampling.LANCZOS))
        assert not is_photograph(drawn, None), path


def test_one_colour_is_no_photograph_however_small():
    assert not any(is_photograph(np.full((side, side, 3), 90, np.uint8), None) for side in (1, 2, 16, 300))


@pytest.fixture(scope="module")
def as_demo() -> PersonaLive:
    """The small model under the demo model's name."""
    model = make_small_model()
    model.networks.config = dataclasses.replace(model.config, name=DEMO.name)
    return model


@pytest.mark.slow
def test_the_demo_model_says_before_it_works_what_becomes_of_a_photograph_and_animates(
    as_demo, small_model, portrait, driver, tmp_path, caplog
):
    options = AnimateOptions(max_frames=4)
    with caplog.at_level(logging.WARNING, "personalive"):
        work = animate(as_demo, portrait, driver, tmp_path / "warned.mp4", options)
        assert next(progress for progress in work if caplog.messages).stage in ("reading", "finding the face")
        assert caplog.messages == [DRAWN_ONLY]
        assert list(work)[-1].stage == "done" and (tmp_path / "warned.mp4").stat().st_size
        caplog.clear()
        list(animate(as_demo, DRAWN[0], driver, tmp_path / "drawn.mp4", options))
        list(animate(small_model, portrait, driver, tmp_path / "other.mp4", options))
        assert not caplog.messages, "drawn faces suit it, and other models are not known to be worse at photographs"


def test_the_live_page_is_told_when_the_photograph_is_uploaded(as_demo, small_model):
    for model, remarks in ((as_demo, (DRAWN_ONLY,)), (small_model, ())):
        engine = PersonaLiveEngine(model, 256, 256)
        assert prepare([photograph()[20:300, 85:365]], "largest", engine, None).remarks == remarks
