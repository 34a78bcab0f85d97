"""A certificate authority of our own, for tests of signed results."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM


class Authority:
    """Makes certificates as C2PA wants them."""

    def __init__(self, folder: Path, name: str = "Test authority") -> None:
        """Make its own certificate: `certificate` is the file."""
        self._folder, self._name = folder, _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._own = self._certify(self._name, self._key.public_key(), is_authority=True, days=3650)
        self.certificate = folder / "authority.pem"
        self.certificate.write_bytes(self._own.public_bytes(PEM))

    def issue(self, name: str, *, days: int = 30, password: bytes | None = None) -> tuple[Path, Path]:
        """A certificate, with that of the authority after it, and its key; `days` below 0: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._certify(_name(name), key.public_key(), is_authority=False, days=days)
        chain, private = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        chain.write_bytes(issued.public_bytes(PEM) + self._own.public_bytes(PEM))
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
        return chain, private

    def _certify(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool, days: int
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.KeyUsage(not is_authority, False, False, False, False, is_authority, is_authority, False, False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(is_authority, None), True)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        )
        if not is_authority:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, False)
        return builder.sign(self._key, hashes.SHA256())


def _name(name: str) -> x509.Name:
    parts = {NameOID.COUNTRY_NAME: "DE", NameOID.ORGANIZATION_NAME: "Tests", NameOID.COMMON_NAME: name}
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts.items()])
