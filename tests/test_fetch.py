"""What a request brings along is stored; what it must not reach is not asked for."""

import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from personalive.errors import InputError
from personalive.media import url_fetch as module
from personalive.media.url_fetch import fetch


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
        with pytest.raises(InputError, match=r"not public|can not be fetched"):
            fetch(f"http://{host}:{port}/", tmp_path / "file")
        assert asked == []


def test_name_of_an_address_inside_is_refused(tmp_path, monkeypatch):
    """Also when only one of several addresses of the name is inside."""
    looked_up = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.7", 80))]
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: looked_up)
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

        monkeypatch.setattr(module.socket, "getaddrinfo", lookup)
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
        with pytest.raises(InputError, match="leads to 'file:"):
            fetch(f"{address}/file", tmp_path / "file", allow_private=True)


def test_redirect_to_an_address_inside_is_refused(tmp_path, monkeypatch):
    with web({"/out": (302, {"Location": "http://127.0.0.1/secret"}, b"")}) as (address, _):
        verdicts = iter([True, False])
        monkeypatch.setattr(module, "_is_public", lambda _: next(verdicts))
        with pytest.raises(InputError, match="not public"):
            fetch(f"{address}/out", tmp_path / "file")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, {}, b""), "answers 404"),
        ((500, {}, b""), "answers 500"),
        ((200, {"Content-Length": "100"}, b"too short"), "too early"),
        ((200, {"Content-Length": str(1 << 40)}, b""), "GiB"),
        ((200, {"Content-Length": "many"}, b""), "can not be fetched"),
        ((200, {"Transfer-Encoding": "chunked"}, b"zz\r\n"), "can not be fetched"),
    ],
)
def test_servers_that_do_not_deliver(tmp_path, answer, reason):
    with web({"/x": answer}) as (address, _), pytest.raises(InputError, match=reason):
        fetch(f"{address}/x", tmp_path / "file", allow_private=True)


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
    with pytest.raises(InputError, match="can not be fetched"):
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
