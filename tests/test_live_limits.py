"""The live server's bounds by themselves: who waits, who gives way, and how much goes to whom."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalive.errors import InputError
from personalive.live.http.security import HostCheck
from personalive.live.hub.rates import MAX_ADDRESSES as MAX_REMEMBERED
from personalive.live.hub.rates import RequestRate, TooManyError
from personalive.live.options import ServeOptions
from personalive.live.transport.ice import MAX_ADDRESSES, MAX_UNANSWERED, WINDOW_SECONDS, IceLimits
from personalive.live.transport.offer import MAX_CANDIDATES, MAX_HIDDEN, MAX_LINES, MAX_SDP, Candidates, checked
from personalive.net.waiting import WaitingRoom, group
from tests.hostile.mutations import mutated_sdp, seeds

# ---- connections that wait ----


@dataclass(eq=False)
class Visitor:
    """A connection, seen from the waiting room."""

    address: str
    gone: bool = field(default=False)

    def give_way(self) -> None:
        self.gone = True


def test_the_oldest_gives_way_where_all_have_one_address():
    room = WaitingRoom(limit=3)
    visitors = [Visitor("192.0.2.1") for _ in range(5)]
    for each in visitors:
        room.enter(each)
    assert [each.gone for each in visitors] == [True, True, False, False, False]
    assert len(room) == 3 and room.given_way == 2


def test_who_has_most_connections_loses_the_oldest_of_its_own():
    room = WaitingRoom(limit=4)
    patient = Visitor("192.0.2.1")
    room.enter(patient)
    crowd = [Visitor("192.0.2.2") for _ in range(10)]
    for each in crowd:
        room.enter(each)
    assert not patient.gone and [each.gone for each in crowd] == [True] * 7 + [False] * 3


def test_the_largest_body_is_held_only_while_there_is_memory():
    room = WaitingRoom(max_held=100)
    done, first, second = (Visitor("192.0.2.1") for _ in range(3))
    room.hold(done, 40)  # complete, and worked on: it does not wait for its client
    for each in (first, second):
        room.enter(each)
        room.hold(each, 30)
    assert [each.gone for each in (first, second, done)] == [False] * 3
    room.hold(second, 10)
    assert [each.gone for each in (first, second, done)] == [True, False, False]
    room.release(done)
    room.hold(second, 60)
    assert not second.gone
    room.hold(second, 1)
    assert second.gone, "there is no other"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), max_size=60))
def test_the_room_never_holds_more_than_its_limit_and_forgets_nobody(moves):
    room = WaitingRoom(limit=4)
    visitors = {(who, where): Visitor(f"192.0.2.{where}") for who in range(10) for where in range(4)}
    inside: set[tuple[int, int]] = set()
    for who, where, enters in moves:
        visitor = visitors[who, where]
        if enters and (who, where) not in inside:
            visitor.gone = False
            room.enter(visitor)
            inside.add((who, where))
        elif not enters:
            room.leave(visitor)
            inside.discard((who, where))
        inside = {each for each in inside if not visitors[each].gone}
        assert len(room) == len(inside) <= 4


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_an_ipv6_network_counts_as_one_address(one, other, same):
    assert (group(one) == group(other)) is same


# ---- addresses that never answer ----


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limits(clock):
    return IceLimits("127.0.0.1", clock)


def sent(limits: IceLimits, address: str, tries: int = 1000) -> int:
    return sum(limits.may_send(address) for _ in range(tries))


def test_an_address_that_says_nothing_gets_so_many_packets_and_later_as_many_again(limits, clock):
    assert sent(limits, "192.0.2.1") == MAX_UNANSWERED == sent(limits, "192.0.2.2")
    clock.now += WINDOW_SECONDS
    assert sent(limits, "192.0.2.1") == 0
    clock.now += 1
    assert sent(limits, "192.0.2.1") == MAX_UNANSWERED


def test_one_packet_more_for_each_that_came_and_any_number_once_it_has_answered(limits, clock):
    assert sent(limits, "192.0.2.1") == MAX_UNANSWERED
    limits.heard_from("192.0.2.1")
    limits.heard_from("192.0.2.1")
    assert sent(limits, "192.0.2.1") == 2
    limits.answered("192.0.2.1")
    assert sent(limits, "192.0.2.1") == 1000
    clock.now += WINDOW_SECONDS + 1
    assert sent(limits, "192.0.2.1") == MAX_UNANSWERED, "it may have gone"


def test_addresses_are_forgotten_before_they_fill_the_memory(limits):
    for index in range(MAX_ADDRESSES + 10):
        limits.may_send(f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}")
    assert len(limits._traffic) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("127.0.0.1", ["127.0.0.1"]), ("::1", ["::1"]), ("192.0.2.7", ["192.0.2.7"]), ("0.0.0.0", None), ("::", None)],
)
def test_media_goes_by_the_address_that_is_listened_on(host, addresses):
    assert IceLimits(host).addresses == addresses
    with pytest.raises(InputError, match="not an address"):
        IceLimits("no.such.host.invalid")


# ---- offers ----


LINE = "7 1 udp 2122260223 192.0.2.7 54400 typ host"
HIDDEN = "7 1 udp 2113937151 990ab247-f80e-4212-a861-99826b8522b3.local 40912 typ host"
OFFER = "v=0\r\na=group:BUNDLE 0\r\na=fingerprint:sha-256 AA\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"


def test_only_so_many_candidates_are_taken_and_fewer_that_the_network_is_asked_for():
    candidates = Candidates(local_only=False)
    assert [candidates.admit(HIDDEN) for _ in range(MAX_HIDDEN + 1)] == [True] * MAX_HIDDEN + [False]
    assert all(candidates.admit(LINE) for _ in range(MAX_CANDIDATES - MAX_HIDDEN - 1))
    with pytest.raises(InputError, match="candidates"):
        candidates.admit(LINE)
    assert not Candidates(local_only=True).admit(HIDDEN)


def test_an_offer_keeps_what_is_used():
    offer = f"{OFFER}a=candidate:{LINE}\r\na=candidate:{HIDDEN}\r\na=x\r\n"
    assert checked(offer, Candidates(local_only=False)) == offer
    assert checked(offer, Candidates(local_only=True)) == f"{OFFER}a=candidate:{LINE}\r\na=x\r\n"


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        ("", "lines"),
        ("a=" + "x" * MAX_SDP, "characters"),
        (OFFER + "a=x\n" * MAX_LINES, "lines"),
        (OFFER.replace("a=mid:0", "a=mid: "), "a=mid"),
        (OFFER.replace("a=mid:0", "a=mid:0\r\na=mid:1"), "a=mid"),
        (OFFER + "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n", "same name"),
        (OFFER.replace("BUNDLE 0", "BUNDLE 0 1"), "BUNDLE"),
        (OFFER.replace("a=fingerprint:sha-256 AA\r\n", ""), "fingerprint"),
        (OFFER.replace("m=video", "m=image"), "image"),
    ],
)
def test_offers_that_aiortc_cannot_close_again_never_reach_it(offer, reason):
    with pytest.raises(InputError, match=reason):
        checked(offer, Candidates(local_only=False))


def test_whatever_an_offer_is_it_is_taken_or_refused():
    for chance in seeds(300):
        offer = mutated_sdp(OFFER + f"a=candidate:{LINE}\r\n", chance)
        try:
            used = checked(offer, Candidates(local_only=False))
        except InputError:
            continue
        assert used.splitlines() == offer.splitlines()


# ---- names ----


@pytest.mark.parametrize(
    ("options", "served", "refused"),
    [
        ({}, ["localhost:7860", "127.0.0.1", "[::1]:1"], ["192.0.2.1", "evil.example", "", "localhost.evil.example"]),
        ({"host": "0.0.0.0", "insecure": True}, ["localhost", "192.0.2.1:7860", "[2001:db8::1]"], ["evil.example", ""]),
        ({"host": "0.0.0.0", "insecure": True, "allowed_hosts": ("Live.example",)}, ["live.EXAMPLE:1"], ["x.example"]),
        ({"host": "0.0.0.0", "tokens": ("a-long-secret",)}, ["live.example", "192.0.2.1"], []),
        (
            {"host": "0.0.0.0", "tokens": ("a-long-secret",), "allowed_hosts": ("live.example",)},
            ["live.example", "192.0.2.1"],
            ["evil.example"],
        ),
    ],
)
def test_names_by_which_the_server_may_be_called(options, served, refused):
    check = HostCheck(ServeOptions(**options))
    assert all(map(check.accepts, served)) and not any(map(check.accepts, refused))


# ---- offers ----


def test_an_address_may_ask_so_often_and_others_as_often():
    now = [0.0]
    rate = RequestRate(2.0, lambda: now[0])
    admitted = [is_admitted(rate, "192.0.2.1") for _ in range(30)]
    assert admitted == [True] * 20 + [False] * 10
    assert is_admitted(rate, "192.0.2.2") and is_admitted(rate, "2001:db8::1")
    now[0] += 1.0
    assert [is_admitted(rate, "192.0.2.1") for _ in range(4)] == [True, True, False, False]


def test_an_ipv6_network_is_one_address_and_what_is_remembered_is_bounded():
    rate = RequestRate(1.0, lambda: 0.0)
    assert [is_admitted(rate, f"2001:db8::{index:x}") for index in range(12)] == [True] * 10 + [False] * 2
    for index in range(2 * MAX_REMEMBERED):
        rate.admit(f"10.0.{index >> 8}.{index & 255}")
    assert len(rate) == MAX_REMEMBERED


def is_admitted(rate, address):
    try:
        rate.admit(address)
    except TooManyError:
        return False
    return True
