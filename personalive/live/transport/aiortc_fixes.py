"""Repairs to aiortc 1.16 that its public interface does not allow: the one place where a library's inside is replaced.

1. Its jitter buffer holds every frame until the first packet of the next one has arrived, which costs a whole frame
   interval. The RTP marker bit says that a frame is complete.
2. Packets without payload, which browsers send to probe the bandwidth, become empty frames there; an empty packet tells
   FFmpeg's decoders that the stream has ended, and H.264 never recovers from it.
3. Its video encoders are capped at 1.5 Mbit/s (VP8) and 3 Mbit/s (H.264), too little for 512×512 at 25 frames a second
   without visible blocks.
4. Its ICE agents use every address of the machine except the loopback one, and send seven packets from each of them to
   each address that a client names.

Call `apply` once before the first connection; versions other than 1.16 are left as they are. `limit_ice` is for each
connection. Delete this when a release of aiortc does the same.
"""

import logging
from importlib import metadata

from aioice import Candidate, Connection, stun
from aioice.ice import StunProtocol
from aiortc import RTCIceTransport, RTCPeerConnection, jitterbuffer
from aiortc.codecs import h264, vpx
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket

from personalive.live.transport.ice import IceLimits

logger = logging.getLogger(__name__)

VERSION = "1.16."
START_BITRATE = 2_500_000
MAX_BITRATE = 8_000_000
"""Bits a second of one video."""

_stock_remove_frame = jitterbuffer.JitterBuffer._remove_frame


def apply() -> bool:
    """Repair aiortc in this process; return whether that was done. Further calls change nothing."""
    version = metadata.version("aiortc")
    if not version.startswith(VERSION):
        logger.warning("aiortc %s is used as it is: the repairs are made for %sx", version, VERSION)
        return False
    setattr(JitterBuffer, "_remove_frame", _remove_frame)  # noqa: B010  a method is replaced on purpose
    for codec in (vpx, h264):
        vars(codec).update(DEFAULT_BITRATE=START_BITRATE, MAX_BITRATE=MAX_BITRATE)
    return True


def _remove_frame(buffer: JitterBuffer, sequence_number: int) -> JitterFrame | None:
    """Take the oldest frame out of the buffer if all of its packets are there."""
    if not buffer._is_video:  # sound has one packet a frame, and needs the prefetching
        return _stock_remove_frame(buffer, sequence_number)
    _skip_empty(buffer)
    packets: list[RtpPacket] = []
    for packet in _in_order(buffer):
        if packets and packet.timestamp != packets[0].timestamp:
            return _finish(buffer, packets)  # the marked packet of the frame before was lost for good, or never set
        packets.append(packet)
        if packet.marker:
            return _finish(buffer, packets)
    return None


def _in_order(buffer: JitterBuffer) -> list[RtpPacket]:
    """Packets from the oldest on, up to the first that is missing."""
    packets = []
    for count in range(buffer.capacity):
        packet = buffer._packets[((buffer._origin or 0) + count) % buffer.capacity]
        if packet is None:
            break
        packets.append(packet)
    return packets


def _skip_empty(buffer: JitterBuffer) -> None:
    """Drop packets without payload from the front. Inside a frame they do no harm."""
    packets = _in_order(buffer)
    empty = next((index for index, packet in enumerate(packets) if _payload(packet)), len(packets))
    buffer.remove(empty)


def _finish(buffer: JitterBuffer, packets: list[RtpPacket]) -> JitterFrame:
    buffer.remove(len(packets))
    return JitterFrame(data=b"".join(map(_payload, packets)), timestamp=packets[0].timestamp)


def _payload(packet: RtpPacket) -> bytes:
    """What is left of the packet after the receiver took the codec's header off."""
    data: bytes = vars(packet)["_data"]
    return data


def limit_ice(connection: RTCPeerConnection, limits: IceLimits) -> None:
    """Apply limits to a connection: after its remote description is set, before its local one, which opens sockets."""
    for transport in ice_transports(connection):
        _limit_agent(transport.iceGatherer._connection, limits)


def ice_transports(connection: RTCPeerConnection) -> set[RTCIceTransport]:
    """The transports of a connection's parts: one, if all are bundled."""
    parts = [each.receiver for each in connection.getTransceivers()]
    return {each.transport.transport for each in (*parts, connection.sctp) if each is not None and each.transport}


def _limit_agent(agent: Connection, limits: IceLimits) -> None:
    gather, check_incoming = agent.get_component_candidates, agent.check_incoming

    async def gather_within(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
        found = await gather(component, addresses if limits.addresses is None else limits.addresses, timeout)
        for protocol in agent._protocols:
            _limit_sending(protocol, limits)
        return found

    def check_heard(message: stun.Message, address: tuple[str, int], protocol: StunProtocol) -> None:
        limits.heard_from(address[0])
        check_incoming(message, address, protocol)

    vars(agent).update(get_component_candidates=gather_within, check_incoming=check_heard)


def _limit_sending(protocol: StunProtocol, limits: IceLimits) -> None:
    send, ask = protocol.send_stun, protocol.request

    def send_within(message: stun.Message, address: tuple[str, int]) -> None:
        if message.message_class is not stun.Class.REQUEST or limits.may_send(address[0]):
            send(message, address)

    async def ask_and_note(
        request: stun.Message,
        address: tuple[str, int],
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> tuple[stun.Message, tuple[str, int]]:
        try:
            answer = await ask(request, address, integrity_key, retransmissions)
        except stun.TransactionFailed:  # which is an answer as well: its author knows the key
            limits.answered(address[0])
            raise
        limits.answered(answer[1][0])
        return answer

    vars(protocol).update(send_stun=send_within, request=ask_and_note)
