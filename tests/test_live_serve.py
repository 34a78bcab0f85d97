"""`personalive serve` as an operator starts it: a process with real networks, https and a token."""

import datetime
import ipaddress
import signal
import socket
import ssl
import subprocess
import sys

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from personalive.assets import DEMO_PORTRAIT
from tests.live_support import until

TOKEN = {"Authorization": "Bearer a-long-secret"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_serve_loads_answers_over_https_and_ends_when_told(small_model_folder, certificate):
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "personalive.cli.main",
        "serve",
        "--port",
        str(port),
        "--model",
        str(small_model_folder),
    ]
    command += ["--tls_cert", str(certificate / "cert.pem"), "--tls_key", str(certificate / "key.pem")]
    command += ["--token", "a-long-secret", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context) as client:

            def answer(path, **headers):
                try:
                    return client.get(path, headers=headers)
                except httpx.TransportError:
                    assert process.poll() is None, process.stdout.read()
                    return None

            until(lambda: answer("/health") is not None, 60)
            assert answer("/api/v1/pipeline/status").status_code == 401
            until(lambda: answer("/api/v1/pipeline/status", **TOKEN).json()["status"] == "loaded", 90)
            assert "secure" in answer("/").headers["set-cookie"].lower()
            opened = client.post("/api/v1/sessions", json={}, headers=TOKEN)
            assert opened.status_code == 201
            sent = client.post("/api/v1/personalive/reference", content=DEMO_PORTRAIT.read_bytes(), headers=TOKEN)
            assert sent.status_code == 200, sent.text
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM, 130, 143), output
    assert "Traceback" not in output and "Exception ignored" not in output


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_taken_port_is_said_and_no_page_is_promised(small_model_folder, more):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "personalive.cli.main", "serve", "--port", port, "--device", "cpu", *more]
        command += ["--model", str(small_model_folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert port in done.stderr and "another --port" in done.stderr and "the page is at" not in done.stderr


def test_serve_refuses_what_would_let_strangers_in():
    command = [sys.executable, "-m", "personalive.cli.main", "serve", "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "--token" in done.stderr and "Traceback" not in done.stderr
