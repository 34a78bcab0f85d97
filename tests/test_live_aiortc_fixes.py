"""The repairs to aiortc, against its own buffer."""

from importlib import metadata

import pytest
from aiortc.codecs import h264, vpx
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket

from personalive.live.transport import aiortc_fixes


@pytest.fixture(autouse=True)
def applied():
    assert aiortc_fixes.apply()


def packet(number: int, timestamp: int, data: bytes = b"x", last: bool = False) -> RtpPacket:
    made = RtpPacket(sequence_number=number % 65536, timestamp=timestamp, marker=int(last))
    made._data = data  # type: ignore[attr-defined]  # where JitterBuffer looks for it
    return made


def add(buffer: JitterBuffer, *packets: RtpPacket) -> list[JitterFrame]:
    return [frame for each in packets if (frame := buffer.add(each)[1]) is not None]


@pytest.fixture
def buffer():
    return JitterBuffer(capacity=16, is_video=True)


def test_a_frame_is_released_at_its_last_packet(buffer):
    assert not add(buffer, packet(0, 100, b"a"), packet(1, 100, b"b"))
    (frame,) = add(buffer, packet(2, 100, b"c", last=True))
    assert (frame.data, frame.timestamp) == (b"abc", 100)
    (frame,) = add(buffer, packet(3, 200, b"d", last=True))
    assert (frame.data, frame.timestamp) == (b"d", 200)


def test_packets_out_of_order_make_the_same_frame(buffer):
    add(buffer, packet(0, 100, b"a"))
    assert not add(buffer, packet(2, 100, b"c", last=True))
    (frame,) = add(buffer, packet(1, 100, b"b"))
    assert frame.data == b"abc"


def test_a_frame_without_its_mark_ends_where_the_next_begins(buffer):
    add(buffer, packet(0, 100, b"a"), packet(1, 100, b"b"))
    (frame,) = add(buffer, packet(2, 200, b"c"))
    assert frame.data == b"ab"


def test_probes_never_become_frames(buffer):
    (first,) = add(buffer, packet(0, 100, b"a", last=True))
    assert not add(buffer, packet(1, 100, b""), packet(2, 100, b""))
    (second,) = add(buffer, packet(3, 200, b"b", last=True))
    assert (first.data, second.data) == (b"a", b"b")
    assert not add(buffer, packet(4, 200, b"", last=True))
    (third,) = add(buffer, packet(5, 300, b"c", last=True))
    assert third.data == b"c"


def test_numbers_wrap_around():
    buffer = JitterBuffer(capacity=16, is_video=True)
    frames = [add(buffer, packet(65530 + index, index, bytes([index]), last=True)) for index in range(20)]
    assert [frame.data for (frame,) in frames] == [bytes([index]) for index in range(20)]


def test_a_lost_packet_asks_for_a_new_picture_once_the_buffer_is_full(buffer):
    add(buffer, packet(0, 0, b"a", last=True))
    asked = [buffer.add(packet(2 + index, index + 1, b"b", last=True))[0] for index in range(20)]
    assert any(asked)


def test_sound_is_left_alone():
    buffer = JitterBuffer(capacity=16, prefetch=4)
    released = [add(buffer, packet(index, index * 960, b"s", last=True)) for index in range(8)]
    assert [len(each) for each in released] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_video_may_be_sharper():
    assert vpx.Vp8Encoder().target_bitrate == aiortc_fixes.START_BITRATE
    encoder = h264.H264Encoder()
    encoder.target_bitrate = 10**9
    assert encoder.target_bitrate == aiortc_fixes.MAX_BITRATE


def test_other_versions_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "1.17.0")
    assert not aiortc_fixes.apply()
