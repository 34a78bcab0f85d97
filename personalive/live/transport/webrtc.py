"""A session over WebRTC: the camera's track in, the portrait's track out, parameters and messages on a data channel."""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE, MediaStreamError
from aiortc.sdp import candidate_from_sdp
from aiortc.stats import RTCTransportStats

from personalive.errors import InputError
from personalive.live.core.frames import CameraFrame, Message, SenderClock
from personalive.live.core.pictures import opaque, stacked
from personalive.live.core.session import Session
from personalive.live.core.subscription import Subscription
from personalive.live.hub.entries import Entry
from personalive.live.hub.eviction import CONNECT_SECONDS
from personalive.live.hub.hub import Hub
from personalive.live.options import IceServer
from personalive.live.transport.aiortc_fixes import ice_transports, limit_ice
from personalive.live.transport.audio import DelayedAudio
from personalive.live.transport.ice import IceLimits
from personalive.live.transport.messages import STATISTICS_SECONDS, handle, session_figures
from personalive.live.transport.offer import Candidates, checked
from personalive.types import RGBArray

logger = logging.getLogger(__name__)

KEEP_ALIVE = 1.0
"""Seconds after which a picture is sent again if there is no new one, so that latecomers see something."""
BIG_FRAME = 1920 * 1088
"""Pixels above which a camera frame is scaled down before it waits."""
GOODBYE_SECONDS = 0.2
"""Time for the last message to leave."""
SILENT_SECONDS = 7
"""A peer that sends nothing for this long has vanished: RTCP comes every few seconds, with or without a picture."""


class PictureTrack(MediaStreamTrack):
    """The animated portrait of a session as a video track."""

    kind = "video"

    def __init__(self, session: Session, *, viewer: bool, opacity: bool = False) -> None:
        """A track that takes no pictures before it is read.

        Args:
            session: whose pictures.
            viewer: for somebody else than the driver, from whom the driver can hide the animation.
            opacity: of a transparent background, send the opacity too: see `pictures.stacked`.
        """
        super().__init__()
        self._session = session
        self._viewer = viewer
        self._opacity = opacity
        self._ready = asyncio.Event()
        self._wake = partial(_call_in, asyncio.get_running_loop(), self._ready.set)
        self._began = time.monotonic()
        self._hides = False
        self._last: RGBArray | None = None
        self._sent = 0.0
        self._subscription: Subscription | None = None

    @property
    def delay(self) -> float:
        """The present delay from capture to display, in seconds."""
        return self._subscription.playout.delay if self._subscription is not None else 0.0

    async def recv(self) -> av.VideoFrame:
        """The next picture, when it is due."""
        if self._subscription is None:  # a program that only drives never asks, and what waits for it would be dropped
            self._subscription = self._session.subscribe(self._wake, counts=not self._viewer)
        while True:
            if self.readyState != "live":
                raise MediaStreamError
            self._ready.clear()
            now = time.monotonic()
            picture, due = self._subscription.pop(now)
            if self._viewer and self._session.parameters.hidden:
                if picture is not None and not self._hides:  # at once
                    self._hides, self._last = True, self._session.still
                    return self._frame(self._last, now)
            elif picture is not None:
                self._hides, self._last = False, picture.image
                return self._frame(picture.image, now)
            if self._last is not None and now - self._sent >= KEEP_ALIVE:
                return self._frame(self._last, now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP_ALIVE if due is None else min(KEEP_ALIVE, due - now)):
                    await self._ready.wait()

    def stop(self) -> None:
        """End the track."""
        super().stop()
        if self._subscription is not None:
            self._session.unsubscribe(self._subscription)
        self._ready.set()

    def _frame(self, image: RGBArray, now: float) -> av.VideoFrame:
        self._sent = now
        has_opacity = self._opacity and image.shape[2] == 4
        frame = av.VideoFrame.from_ndarray(stacked(image) if has_opacity else opaque(image), format="rgb24")
        frame.pts = int((now - self._began) * VIDEO_CLOCK_RATE)
        frame.time_base = VIDEO_TIME_BASE
        return frame


class Peer:
    """One WebRTC connection of a session: its driver, or a viewer that only watches."""

    def __init__(self, hub: Hub, entry: Entry, limits: IceLimits, *, viewer: bool, opacity: bool = False) -> None:
        self.identifier = secrets.token_urlsafe(18)
        self._hub = hub
        self._entry = entry
        self._session = entry.session
        self._viewer = viewer
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=_servers(hub.options.ice_servers, limits)))
        self._channel: RTCDataChannel | None = None
        self._unsent: list[Message] = []
        self._cameras: list[MediaStreamTrack] = []
        self._microphones: list[MediaStreamTrack] = []
        self._work: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None
        """Closes a connection that broke."""
        self._candidates = Candidates(local_only=limits.local_only)
        self._closed = False
        self._picture = PictureTrack(self._session, viewer=viewer, opacity=opacity)
        self._connection.on("track", self._on_track)
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("connectionstatechange", self._on_state)

    async def answer(self, sdp: str) -> str:
        """Take an offer and return the answer.

        Raises:
            InputError: the offer cannot be used.
        """
        try:
            offered = checked(sdp, self._candidates)
            await self._connection.setRemoteDescription(RTCSessionDescription(offered, "offer"))
            self._add_tracks()
            limit_ice(self._connection, self._limits)
            await asyncio.sleep(0)  # aiortc needs some 10 ms on each side of this, in which nobody's pictures move
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except InputError:
            raise
        except Exception as error:  # aiortc trusts the form of what it parses
            logger.info("an offer was refused: %s: %s", type(error).__name__, error)
            raise InputError("the offer's SDP cannot be used: it must offer to send or receive one video") from error
        self._work = asyncio.create_task(self._run())
        return self._connection.localDescription.sdp

    async def add_candidates(self, candidates: list[dict[str, Any]]) -> None:
        """Add addresses of the client.

        Raises:
            InputError: one that cannot be read, or too many.
        """
        for given in candidates:
            await self._add_candidate(given)

    @property
    def connected(self) -> bool:
        """Whether pictures can flow."""
        return self._connection.connectionState == "connected"

    def send(self, message: Message) -> None:
        """Tell the client something; any thread."""
        _call_in(self._loop, self._send, message)

    async def close(self) -> None:
        """End the connection, after the last message has left."""
        if self._closed:
            return
        self._closed = True
        if self._channel is not None and self._channel.readyState == "open":
            await asyncio.sleep(GOODBYE_SECONDS)
        self._hub.connections.detach(self._entry, self)
        self._picture.stop()
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
        await self._hang_up()

    async def _hang_up(self) -> None:
        """Free what the connection holds, even if aiortc fails to."""
        try:
            await self._connection.close()
        except Exception as error:
            logger.warning(
                "a connection did not close, but its sockets are closed: %s: %s", type(error).__name__, error
            )
            for transport in ice_transports(self._connection):
                with contextlib.suppress(Exception):
                    await transport.stop()

    async def _run(self) -> None:
        """Read the camera and send figures until the connection is closed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_statistics())
                tasks.create_task(self._notice_silence())
                for camera in self._cameras:
                    tasks.create_task(self._read_video(camera))
                for microphone in self._microphones:
                    tasks.create_task(self._read_sound(microphone))
        except* Exception:
            logger.exception("a WebRTC connection broke")
            self._end = asyncio.create_task(self.close())

    def _add_tracks(self) -> None:
        kinds = {each.kind for each in self._connection.getTransceivers()}
        if "video" not in kinds:
            raise InputError("the offer has no video: add a video transceiver before making it")
        self._connection.addTrack(self._picture)
        if "audio" in kinds:
            self._connection.addTrack(DelayedAudio(self._session.sound, lambda: self._picture.delay))
        capabilities = RTCRtpSender.getCapabilities("video").codecs
        # VP8 takes a third of H.264's time to encode here, so it comes first if the client supports it.
        ordered = sorted(capabilities, key=lambda codec: codec.mimeType != "video/VP8")
        for transceiver in self._connection.getTransceivers():
            if transceiver.kind == "video":
                transceiver.setCodecPreferences(ordered)

    async def _add_candidate(self, given: dict[str, Any]) -> None:
        text = given.get("candidate") or ""
        line = text.removeprefix("candidate:")
        if text and not self._candidates.admit(line):
            return
        try:
            if not text:
                await self._connection.addIceCandidate(None)
                return
            candidate = candidate_from_sdp(line)
            candidate.sdpMid, candidate.sdpMLineIndex = given.get("sdpMid"), given.get("sdpMLineIndex")
            await self._connection.addIceCandidate(candidate)
        except Exception as error:  # as above: aiortc can fail in any way on a malformed line
            raise InputError(f"the candidate {text[:200]!r} cannot be used") from error

    def _on_track(self, track: MediaStreamTrack) -> None:
        if self._viewer:
            return
        if track.kind == "video":
            self._cameras.append(track)
        else:
            self._microphones.append(track)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._channel = channel
        if not self._viewer:
            channel.on("message", lambda text: handle(self._session, text, self._send))
        for message in self._unsent:
            self._send(message)
        self._unsent.clear()

    async def _on_state(self) -> None:
        if self.connected:
            self._hub.connections.came_up(self._entry, self)
        if self._connection.connectionState in ("failed", "closed"):
            await self.close()

    async def _read_video(self, track: MediaStreamTrack) -> None:
        clock = SenderClock()
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                arrived = time.monotonic()
                if not isinstance(frame, av.VideoFrame) or frame.pts is None or frame.time_base is None:
                    continue
                captured = clock.captured(float(frame.pts * frame.time_base), arrived)
                if frame.width * frame.height > BIG_FRAME:
                    frame = await self._loop.run_in_executor(None, _smaller, frame)
                self._session.offer(CameraFrame(captured, partial(_to_rgb, frame)))

    async def _read_sound(self, track: MediaStreamTrack) -> None:
        self._session.sound.start()
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if not self._session.parameters.muted:
                    self._session.sound.push(frame)

    async def _notice_silence(self) -> None:
        """End the connection of a peer that has vanished or never came: ICE itself takes half a minute.

        Seconds are counted, not read from a clock: if this process was suspended, the peer may have kept sending.
        """
        packets = silent = 0
        while silent < (SILENT_SECONDS if self.connected else CONNECT_SECONDS):
            await asyncio.sleep(1.0)
            before, packets = packets, await self._packets_received()
            silent = silent + 1 if packets == before else 0
        self._hub.connections.spawn(self.close())

    async def _packets_received(self) -> int:
        """Packets of all kinds, except those of ICE."""
        report = await self._connection.getStats()
        return sum(each.packetsReceived for each in report.values() if isinstance(each, RTCTransportStats))

    async def _send_statistics(self) -> None:
        while True:
            await asyncio.sleep(STATISTICS_SECONDS)
            self._send({"type": "stats", **session_figures(self._session)})

    def _send(self, message: Message) -> None:
        if self._channel is None:
            if message["type"] != "stats":
                self._unsent = [*self._unsent[-9:], message]
        elif self._channel.readyState == "open" and self._channel.bufferedAmount < 65536:
            self._channel.send(json.dumps(message))


def _servers(servers: tuple[IceServer, ...], limits: IceLimits) -> list[RTCIceServer]:
    # From the loopback address only a relay helps: a STUN server cannot be reached, and would only cost time.
    useful = (each for each in servers if not limits.local_only or each.urls.startswith("turn"))
    return [RTCIceServer(urls=each.urls, username=each.username, credential=each.credential) for each in useful]


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    """Call in the loop's thread, or not at all once the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)


def _to_rgb(frame: av.VideoFrame) -> RGBArray:
    return np.asarray(frame.to_ndarray(format="rgb24"))


def _smaller(frame: av.VideoFrame) -> av.VideoFrame:
    scale = (BIG_FRAME / (frame.width * frame.height)) ** 0.5
    width, height = (max(2, int(side * scale) // 2 * 2) for side in (frame.width, frame.height))
    return frame.reformat(width=width, height=height)
