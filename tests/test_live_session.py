"""Sessions and their scheduler: on a clock that is moved by hand, but where threads are what is tested."""

import threading
import time

import numpy as np
import pytest

from personalive.errors import DeviceMemoryError, InputError
from personalive.live.core.commands import MAX_WAITING, Commands, SessionEndedError
from personalive.live.core.faces import FaceFinder
from personalive.live.core.frames import DELAY_MEMORY, CameraFrame
from personalive.live.core.parameters import Parameters
from personalive.live.core.pictures import decode
from personalive.live.core.scheduler import Scheduler
from personalive.live.core.session import Session
from personalive.live.core.stamps import Stamps
from personalive.testing.echo import EchoEngine
from tests.live_simulation import IMAGE, Simulation
from tests.live_support import BLUE, GREEN, RED, shows, until


def test_pictures_carry_the_stamps_of_the_frames_that_drove_them():
    room = Simulation()
    one = room.person(RED)
    one.draw = lambda index: np.full((64, 64, 3), index * 4, dtype=np.uint8)
    one.film(50)
    room.run(1.2)
    pictures = [picture for _, picture in one.shown]
    driven = [each for each in pictures if each.driven]
    assert len(driven) > 20 and not pictures[0].driven
    for each in driven:
        index = int(each.image[32, 32, 0]) // 4
        assert each.client_stamp == index and each.captured == one.captured[index]


def test_low_latency_moves_the_window_twice_as_fast():
    delays = {}
    for latency in ("balanced", "low"):
        room = Simulation(call_seconds=0.01)
        one = room.person(GREEN, latency=latency)
        one.film(25)
        room.run(2.5)
        delays[latency] = one.session.statistics.delays().median
    # 3 1/2 chunks of 4 or 2 camera frames, half of the first and the call
    assert delays["balanced"] == pytest.approx(0.12 + 3 * 0.16 + 0.01, abs=0.03)
    assert delays["low"] == pytest.approx(0.06 + 3 * 0.08 + 0.01, abs=0.03)


def test_one_portrait_dissolves_into_the_next():
    room = Simulation(call_seconds=0.05)
    one = room.person(RED)
    one.film(25)
    room.run(2)
    one.session.set_portrait(BLUE)
    one.shown.clear()
    room.run(2)
    one.session.set_portrait(RED)
    room.run(2)
    reds = np.array([picture.image[2, 2, 0] for _, picture in one.shown], int)
    assert reds[0] == reds[-1] == RED[0] and BLUE[0] in reds
    steps = np.abs(np.diff(reds))
    assert steps.max() <= 0.3 * (RED[0] - BLUE[0])
    assert np.count_nonzero(steps) >= 16, "each time, nine pictures are mixed ones"


def test_sessions_share_the_device_fairly_in_batches():
    batches = []
    engine = EchoEngine(64, 64, chunk_frames=4, before_call=lambda streams: batches.append(len(streams)))
    room = Simulation(engine, call_seconds=0.15, max_batch=2)
    people = [room.person(colour) for colour in (RED, GREEN, BLUE)]
    for each in people:
        each.film(25)
    room.run(3)
    made = [each.session.statistics.pictures_made for each in people]
    assert min(made) >= 8 and max(made) - min(made) <= 4, "none is more than one chunk ahead"
    assert max(batches) == 2


def test_the_device_is_used_by_one_thread_and_nobody_waits_for_one_that_stalls_in_preparation():
    engine = EchoEngine(64, 64, chunk_frames=4)
    scheduler = Scheduler(engine)
    lucky, stuck = (Session(name, engine, Parameters()) for name in ("lucky", "stuck"))
    stalling, release = threading.Event(), threading.Event()

    def stall():
        stalling.set()
        assert release.wait(60)
        return IMAGE

    scheduler.start()
    try:
        for session in (lucky, stuck):
            scheduler.add(session)
            session.set_portrait(RED).result(20)
        for index in range(4):
            stuck.offer(CameraFrame(time.monotonic() + index / 100, stall))
        assert stalling.wait(20)

        def served():
            lucky.offer(CameraFrame(time.monotonic(), lambda: IMAGE))
            return lucky.statistics.pictures_made >= 12

        until(served)
        assert stuck.statistics.pictures_made == 0
        release.set()
        until(lambda: stuck.statistics.pictures_made > 0)
    finally:
        release.set()
        scheduler.stop()
    assert len(engine.threads) == 1


def test_a_gap_of_the_camera_does_not_leave_a_delay_behind():
    room = Simulation()
    one = room.person(RED)
    one.film(25)
    room.run(1)
    before = one.screen.playout.delay
    one.film(0)
    room.run(2.2)
    one.film(25)
    room.run(DELAY_MEMORY + 1.5)
    assert one.screen.playout.delay == pytest.approx(before, abs=0.1)


def test_a_model_of_two_seconds_a_call_is_no_gap_of_the_camera():
    stamps, pictures = Stamps(4, 12), []
    for call in range(8):
        frames = [CameraFrame(2.0 * call + 0.04 * index, lambda: IMAGE) for index in range(50)]
        for each, before in zip(frames, [None, *frames], strict=False):
            stamps.arrived(each.captured, before.captured if before else each.captured - 0.04)
        stamps.enter(stamps.of_chunk(frames[12::12]))
        pictures += stamps.leave(np.zeros((4, 8, 8, 3), np.uint8))
    assert [each.driven for each in pictures] == [False] * 12 + [True] * 20
    times = np.array([each.captured for each in pictures[12:]])
    assert np.all(np.diff(times) > 0.3) and times[-1] < 10.1


def test_a_viewer_changes_nothing_about_the_figures():
    figures = []
    for viewers in (0, 3):
        room = Simulation()
        one = room.person(RED)
        readers = [one.session.subscribe(lambda: None, counts=False) for _ in range(viewers)]
        one.film(25)
        for _ in range(100):
            room.run(0.02)
            for each in readers:
                each.pop(room.now)
        for each in readers:
            one.session.unsubscribe(each)
        figures.append((one.session.statistics.pictures_shown, one.session.statistics.delays(), one.session.dropped))
    assert figures[0] == figures[1] and figures[0][0] > 20


def test_pause_stops_and_goes_on():
    room = Simulation()
    one = room.person(RED)
    one.film(25)
    room.run(1)
    delay = one.screen.playout.delay
    one.session.change({"paused": True})
    before = one.session.statistics.pictures_made
    room.run(0.7)
    assert one.session.statistics.pictures_made == before
    one.session.change({"paused": False})
    room.run(1)
    assert one.session.statistics.pictures_made > before
    assert one.screen.playout.delay == pytest.approx(delay, abs=0.1)


def test_mirror_and_centre_crop():
    room = Simulation(EchoEngine(64, 64))
    one = room.person(RED)
    wide = np.zeros((64, 128, 3), dtype=np.uint8)
    wide[:, 64:] = 255
    one.draw = lambda index: wide
    one.session.change({"mirror": True})
    one.film(25)
    room.run(0.5)
    image = one.shown[0][1].image
    assert image[32, 24, 0] > 200 and image[32, 40, 0] < 50


def test_damaged_frames_are_reported_and_skipped():
    room = Simulation(EchoEngine(64, 64))
    one = room.person(RED)
    one.draw = lambda index: IMAGE if index else decode(b"garbage")
    one.film(2)
    room.run(1)
    assert [each["code"] for each in one.messages] == ["bad_frame"]
    assert shows(one.shown[0][1].image, RED)


def test_a_new_seed_begins_again():
    engine = EchoEngine(64, 64)
    room = Simulation(engine)
    one = room.person(RED)
    one.session.change({"seed": 7})
    one.film(25)
    room.run(0.2)
    assert [stream.seed for stream in engine.streams] == [7]
    assert shows(one.shown[0][1].image, RED)


def test_the_client_gets_a_message_when_no_face_is_seen_and_when_it_is_back():
    class Script:
        """A tracker that sees no face in its first frames."""

        frames, closed = 0, False

        def follow(self, image):
            self.frames += 1
            return None if self.frames <= 6 else (5, 5, 40, 40)

        def close(self):
            self.closed = True

    room = Simulation(EchoEngine(64, 64))
    tracker = Script()
    one = room.person(RED, faces=FaceFinder(tracker))
    one.film(25)
    room.run(1)
    assert [each["code"] for each in one.messages] == ["no_face", "face"] and one.shown
    one.session.close()
    assert tracker.closed


# ---- commands ----


def test_commands_of_a_closed_session_say_so():
    one = Simulation(EchoEngine(64, 64)).person(None)
    waiting = one.session.reset()
    one.session.close("because")
    one.session.close("again")
    assert one.messages == [{"type": "stream_stopped", "error_message": "because"}]
    for future in (waiting, one.session.reset()):
        with pytest.raises(SessionEndedError, match="has ended"):
            future.result(0)


def test_a_command_that_nobody_waits_for_any_more_is_not_run():
    commands, done = Commands(), []
    assert commands.add(lambda: done.append("first")).cancel()
    second = commands.add(lambda: done.append("second"))
    for _ in range(2):
        commands.run_next(EchoEngine().guard)
    second.result(0)
    assert done == ["second"]
    assert commands.add(lambda: done.append("third")).cancel()
    commands.end("the end")
    assert len(commands) == 0


def test_a_flood_of_changes_is_refused_and_changes_nothing():
    room = Simulation(EchoEngine(64, 64))
    one = room.person(RED)
    with pytest.raises(InputError, match="waiting for the device"):
        for seed in range(100, 100_000):
            one.session.change({"seed": seed})
    assert one.session.parameters.seed == 100 + MAX_WAITING - 1
    room.run(0.1)
    assert [stream.seed for stream in room.engine.streams] == [one.session.parameters.seed]


# ---- failures of a call ----


class Failing(EchoEngine):
    """Fails in a call for several sessions, before or after some streams have moved."""

    def __init__(self, moves: int) -> None:
        super().__init__(64, 64, chunk_frames=4)
        self.moves, self.failures = moves, 0

    def advance(self, streams, driving):
        if len(streams) > 1:
            self.failures += 1
            super().advance(streams[: self.moves], driving[: self.moves])
            raise DeviceMemoryError("no memory for several")
        return super().advance(streams, driving)


def pair_after_a_failure(moves):
    room = Simulation(Failing(moves), max_batch=2)
    people = [room.person(colour) for colour in (RED, GREEN)]
    for each in people:
        each.draw = lambda index: np.full((64, 64, 3), min(4 * index, 250), dtype=np.uint8)
        each.film(25)
    room.run(1.5)
    assert room.engine.failures
    return people


def test_a_call_that_fails_is_repeated_for_each_session_alone_and_no_frame_counts_twice():
    for each in pair_after_a_failure(moves=0):
        assert not each.session.closed
        levels = [int(picture.image[32, 32, 0]) for _, picture in each.shown]
        assert len(levels) > 20 and levels == sorted(set(levels))


def test_a_call_that_fails_is_never_repeated_for_a_stream_that_has_moved():
    moved, other = pair_after_a_failure(moves=1)
    assert moved.session.closed and "no memory" in moved.messages[-1]["error_message"]
    assert not other.session.closed and len(other.shown) > 20
