"""PersonaLive behind the live server: real networks, very small."""

import contextlib
import copy
import dataclasses
import time

import numpy as np
import pytest
import torch

from personalive.config import LEAD_IN
from personalive.errors import DeviceMemoryError, InputError
from personalive.live.core.frames import CameraFrame
from personalive.live.core.model import ModelFactory, PersonaLiveEngine
from personalive.live.core.parameters import LoadParameters, Parameters
from personalive.live.core.scheduler import Scheduler
from personalive.live.core.session import Session
from personalive.pipeline import PersonaLive
from tests.live_support import until

BOX = (10, 10, 50, 50)


def noise(seed: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def engine(small_model):
    return PersonaLiveEngine(small_model, 64, 64)


def begun(engine):
    stream = engine.open(seed=1)
    stream.set_reference(engine.reference(noise(0), BOX))
    return stream


def driving(engine, *seeds):
    return engine.driving([noise(seed) for seed in seeds], [BOX] * len(seeds))


def test_four_frames_are_the_same_stretched_or_pushed(engine):
    frames = driving(engine, 1, 2, 3, 4)
    pushed, stretched = begun(engine), begun(engine)
    for _ in range(2):
        assert np.array_equal(pushed.push(frames), engine.advance([stretched], [frames])[0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_motion_between_two_frames_lies_between_theirs(engine, count):
    whole, part = begun(engine), begun(engine)
    engine.advance([whole, part], [driving(engine, 1, 2, 3, 4)] * 2)
    engine.advance([whole, part], [driving(engine, 5, 6, 7, 8), driving(engine, *(6, 7, 8)[-count:])])
    real, made = (stream.require_state().history for stream in (whole, part))
    seen = real[3:4].join(real[-count:])
    for name in ("tokens", "keypoints"):
        path = getattr(seen, name)
        for step, value in enumerate(getattr(made[-4:], name)):
            place = (step + 1) * count / 4
            start = min(int(place), count - 1)
            expected = torch.lerp(path[start], path[start + 1], place - start)
            assert torch.allclose(value, expected, atol=1e-2 if name == "tokens" else 1e-5)


def test_frames_that_do_not_stretch_are_refused(engine, small_model):
    stream = begun(engine)
    with pytest.raises(InputError, match="1 to 4"):
        engine.advance([stream], [driving(engine, 1, 2, 3, 4, 5)])
    stream.push(driving(engine, 1))
    with pytest.raises(InputError, match="waiting"):
        small_model.advance([stream], [driving(engine, 1, 2)], stretch=True)


def test_want_of_memory_on_the_device_becomes_an_error_of_ours(engine):
    with pytest.raises(DeviceMemoryError, match="end sessions"), engine.guard():
        raise torch.OutOfMemoryError("CUDA out of memory")


@contextlib.contextmanager
def failing(network: torch.nn.Module):
    """A network that has no memory to work in."""

    def fail(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [leaf.register_forward_pre_hook(fail) for leaf in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("network", ["motion_extractor", "pose_guider", "denoising_unet", "vae"])
@pytest.mark.parametrize("calls_before", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_call_that_fails_leaves_every_stream_as_it_was(engine, small_model, network, calls_before):
    """What the scheduler relies on when it repeats a failed call for each session alone."""
    streams, twins = ([begun(engine) for _ in range(2)] for _ in range(2))
    chunks = [
        [driving(engine, *range(8 * call + 4 * place, 8 * call + 4 * place + 3)) for place in range(2)]
        for call in range(calls_before + 2)
    ]
    for chunk in chunks[:calls_before]:
        engine.advance(streams, chunk)
        engine.advance(twins, chunk)
    with failing(small_model.networks.modules[network]), pytest.raises(DeviceMemoryError), engine.guard():
        engine.advance(streams, chunks[calls_before])
    for chunk in chunks[calls_before:]:
        for stream, twin, frames in zip(streams, twins, chunk, strict=True):
            assert np.array_equal(engine.advance([stream], [frames])[0], engine.advance([twin], [frames])[0])


def test_a_session_animates_resets_and_resumes(engine):
    scheduler = Scheduler(engine)
    scheduler.start()
    session = Session("one", engine, Parameters(latency="low"))
    scheduler.add(session)
    reader = session.subscribe(lambda: None)
    shown = []

    def drive(count):
        for index in range(count):
            session.offer(CameraFrame(time.monotonic(), lambda index=index: noise(index)))
            time.sleep(0.05)
            picture, _ = reader.pop(time.monotonic())
            if picture is not None:
                shown.append(picture)

    try:
        session.set_portrait(engine.reference(noise(0), None)).result(30)
        drive(40)
        assert shown and shown[0].image.shape == (64, 64, 3) and not shown[0].driven
        until(lambda: session.statistics.pictures_made > LEAD_IN)
        state = session.snapshot().result(30)
        session.set_portrait(engine.reference(noise(9), None)).result(30)
        session.reset().result(30)
        session.resume(state).result(30)
        made = session.statistics.pictures_made
        drive(20)
        until(lambda: session.statistics.pictures_made > made)
        assert not session.closed
    finally:
        session.close()
        scheduler.stop()


def test_the_factory_loads_once_and_makes_engines_of_any_size(small_model):
    loads, stages, networks = [], [], copy.copy(small_model.networks)
    networks.config = dataclasses.replace(small_model.config, size=64)
    smaller = PersonaLive(networks)

    def load():
        loads.append(1)
        return smaller

    factory = ModelFactory(load, face_boxes=True)
    assert factory(LoadParameters(), stages.append).width == 64
    assert factory(LoadParameters(width=256), stages.append).width == 256
    assert len(loads) == 1 and stages[0] == "reading the weights"
    assert len(stages) > 4 and set(stages[1:]) == {"warming up"}, "before every call, as the server may end there"
