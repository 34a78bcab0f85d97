"""Certificates by which a front and its workers on other machines know each other, made anew for each process."""

import datetime
import os
import ssl
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LIFE = datetime.timedelta(days=3650)
"""Longer than any process; the key is in memory only."""
CLOCKS = datetime.timedelta(days=1)
"""By which the clocks of two machines may differ."""


@dataclass(frozen=True, repr=False)
class Identity:
    """A key and its certificate, both as PEM."""

    key: str
    certificate: str
    """Which the other side is told. It is signed by its own key: no authority vouches for anybody."""

    @classmethod
    def new(cls) -> Self:
        """Make one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "personalive")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCKS)
            .not_valid_after(now + LIFE)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return cls(private.decode(), certificate.public_bytes(pem).decode())

    def serving(self, peer: str) -> ssl.SSLContext:
        """What a server takes that only the owner of a certificate may call."""
        return self._context(ssl.PROTOCOL_TLS_SERVER, peer)

    def calling(self, peer: str) -> ssl.SSLContext:
        """What a client takes that calls only the owner of a certificate."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT, peer)

    def _context(self, protocol: int, peer: str) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the one certificate that is trusted is the other side's own
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=peer)
        with open(os.memfd_create("identity"), "w") as file:  # Python reads keys from files only: this one is no disk's
            file.write(self.key + self.certificate)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context
