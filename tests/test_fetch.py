"""What a request brings is stored; what it must not reach is not requested."""

import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from personalive.errors import InputError
from personalive.media import url_fetch as module
from personalive.media.url_fetch import fetch
from personalive.net import addresses
from personalive.net.pace import Pace


@contextmanager
def web(answers, tls=None):
    """A server on loopback: path → (status, headers, body); yields its address and the paths that were asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("data:image/png;base64,aGVsbG8=", b"hello"),
        ("data:;base64,aGVsbG8=", b"hello"),
        ("data:,a%20b", b"a b"),
        ("DATA:text/plain,x", b"x"),
    ],
)
def test_inline_files(tmp_path, url, content):
    assert fetch(url, tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("url", ["data:", "data:image/png;base64", "data:image/png;base64,%%%", "data:;base64,aGVs!"])
def test_broken_inline_files(tmp_path, url):
    with pytest.raises(InputError, match="data: URL"):
        fetch(url, tmp_path / "file")


@pytest.mark.parametrize(
    "url",
    ["", "/etc/passwd", "file:///etc/passwd", "ftp://example.org/x", "gopher://x", "C:\\x", "javascript:x", "//x/y"],
)
def test_what_is_no_url_of_a_file(tmp_path, url):
    with pytest.raises(InputError, match="is not a file"):
        fetch(url, tmp_path / "file")
    assert not (tmp_path / "file").exists()


INSIDE = [
    *("127.0.0.1", "127.9.9.9", "localhost", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "[fe80::1]", "[fc00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255"),
]


@pytest.mark.parametrize("host", INSIDE)
def test_addresses_inside_are_refused(tmp_path, host):
    with web({}) as (address, asked):
        port = address.rpartition(":")[2]
        with pytest.raises(InputError, match=r"not public|cannot be fetched"):
            fetch(f"http://{host}:{port}/", tmp_path / "file")
        assert asked == []


def test_name_of_an_address_inside_is_refused(tmp_path, monkeypatch):
    """Also when only one of several addresses of the name is inside."""
    looked_up = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.7", 80))]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: looked_up)
    with pytest.raises(InputError, match=r"10\.0\.0\.7, an address that is not public"):
        fetch("http://pictures.example/", tmp_path / "file")


def test_name_is_looked_up_once(tmp_path, monkeypatch):
    """A name that is public when checked and private when connected to would be a way in."""
    with web({"/x": (200, {}, b"content")}) as (address, _):
        port = int(address.rpartition(":")[2])
        calls = []

        def lookup(*_, **__):
            calls.append(1)
            return [(2, 1, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(addresses.socket, "getaddrinfo", lookup)
        fetch("http://pictures.example/x", tmp_path / "file", allow_private=True)
    assert len(calls) == 1


def test_redirects_are_followed_and_checked(tmp_path):
    answers = {
        "/a": (302, {"Location": "/b?c=d"}, b""),
        "/b?c=d": (200, {}, b"content"),
        "/loop": (301, {"Location": "/loop"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
    }
    with web(answers) as (address, asked):
        assert fetch(f"{address}/a", tmp_path / "file", allow_private=True).read_bytes() == b"content"
        with pytest.raises(InputError, match="redirects"):
            fetch(f"{address}/loop", tmp_path / "file", allow_private=True)
        assert asked.count("/loop") == 6
        with pytest.raises(InputError, match="'file:///etc/passwd' is not an http: or https:"):
            fetch(f"{address}/file", tmp_path / "file", allow_private=True)


def test_redirect_to_an_address_inside_is_refused(tmp_path, monkeypatch):
    with web({"/out": (302, {"Location": "http://127.0.0.1/secret"}, b"")}) as (address, _):
        verdicts = iter([True, False])
        monkeypatch.setattr(addresses, "is_public", lambda _: next(verdicts))
        with pytest.raises(InputError, match="not public"):
            fetch(f"{address}/out", tmp_path / "file")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, {}, b""), "answers 404"),
        ((500, {}, b""), "answers 500"),
        ((200, {"Content-Length": "100"}, b"too short"), "too early"),
        ((200, {"Content-Length": str(1 << 40)}, b""), "GiB"),
        ((200, {"Content-Length": "many"}, b""), "cannot be fetched"),
        ((200, {"Transfer-Encoding": "chunked"}, b"zz\r\n"), "cannot be fetched"),
    ],
)
def test_servers_that_do_not_deliver(tmp_path, answer, reason):
    with web({"/x": answer}) as (address, _), pytest.raises(InputError, match=reason):
        fetch(f"{address}/x", tmp_path / "file", allow_private=True)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_silence_and_dripping_end_an_exchange_and_its_deadline_ends_it_in_any_case():
    clock = Clock()
    pace = Pace(seconds=300, rate=1024, grace=10, clock=clock)
    assert pace.left() == 10
    clock.now += 9
    pace.count(20 * 1024)  # which are worth twenty seconds
    assert pace.left() == 21
    clock.now += 21
    with pytest.raises(TimeoutError, match="slower than 1 KiB a second"):
        pace.left()
    pace.count(1 << 30)
    assert pace.left() == 270
    clock.now += 270
    with pytest.raises(TimeoutError, match="longer than 300 seconds"):
        pace.left()


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 1 << 20)), max_size=50))
def test_no_exchange_outlasts_its_deadline_or_what_its_bytes_earned(events):
    """However bytes come: who waits as long as `left` allows, and no longer, ends in time."""
    clock = Clock()
    pace = Pace(seconds=300, rate=64 * 1024, clock=clock)
    received = 0
    with suppress(TimeoutError):
        for wait, size in events:
            clock.now += min(wait, pace.left())
            pace.count(size)
            received += size
    assert clock.now - 1000 <= min(300, 10 + received / (64 * 1024)) + 1e-6


def test_stopped_exchange_ends():
    pace = Pace(seconds=300, rate=1024)
    pace.stop()
    with pytest.raises(TimeoutError, match="stopped"):
        pace.left()


@pytest.mark.parametrize("part", ["head", "body"])
def test_file_that_drips_is_given_up(tmp_path, monkeypatch, part):
    """A server that sends a byte now and then, in the head or the body, does not keep the model waiting."""
    clock = Clock()
    monkeypatch.setattr(module, "Pace", partial(Pace, clock=clock))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        given_up = threading.Event()

        def drip():
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                connection.sendall(b"Content-Length: 1000000\r\n\r\n" if part == "body" else b"X-Long: ")
                while not given_up.is_set():
                    clock.now += 5
                    connection.sendall(b"x")
                    time.sleep(0.01)

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(InputError, match="slower than 64 KiB a second"):
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
                fetch(url, tmp_path / "file", allow_private=True)
        finally:
            given_up.set()
            thread.join()


def test_name_goes_encoded_and_so_does_the_path(tmp_path, monkeypatch):
    with web({"/%C3%A4%20b?c=d": (200, {}, b"content")}) as (address, asked):
        port = int(address.rpartition(":")[2])
        monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
        fetch("http://bücher.example/ä b?c=d", tmp_path / "file", allow_private=True)
    assert asked == ["/%C3%A4%20b?c=d"]


def test_another_address_is_tried_where_the_first_does_not_answer(tmp_path, monkeypatch):
    with web({"/x": (200, {}, b"content")}) as (address, _):
        port = int(address.rpartition(":")[2])
        looked_up = [(2, 1, 6, "", ("127.0.0.1", 9)), (2, 1, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: looked_up)
        fetch("http://pictures.example/x", tmp_path / "file", allow_private=True)


def test_endless_answer_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    with web({"/x": (200, {}, b"x" * (3 << 20))}) as (address, _), pytest.raises(InputError, match="allowed"):
        fetch(f"{address}/x", tmp_path / "file", allow_private=True)


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://user:secret@example.org/", "http://[::1", "http://x:99999/"]
)
def test_addresses_that_make_no_sense(tmp_path, url):
    with pytest.raises(InputError):
        fetch(url, tmp_path / "file")


def test_nobody_listens(tmp_path):
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/" + quote("ä"), tmp_path / "file", allow_private=True)


def self_signed(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    certificate = certificate.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    signed = certificate.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + signed.public_bytes(pem))
    return folder / "server.pem"


def test_certificate_that_nobody_signed_is_refused(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    with web({"/x": (200, {}, b"content")}, context) as (address, asked):
        with pytest.raises(InputError, match="certificate"):
            fetch(address.replace("http:", "https:") + "/x", tmp_path / "file", allow_private=True)
        assert asked == []
