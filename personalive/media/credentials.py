"""Content credentials: a result is signed with C2PA, and what a signed file claims is read.

The claim stands in the file itself, next to its pictures, and the signature covers both: a changed byte shows, and a
file that was encoded again carries no claim. See docs/credentials.md.
"""

import contextlib
import datetime
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from personalive.errors import InputError, OutputError, first_line
from personalive.extras import require
from personalive.media.images import require_file
from personalive.media.part_file import PartFile

MEDIA_TYPES = {".mp4": "video/mp4", ".gif": "image/gif", ".webp": "image/webp"}
"""Results that can be signed; C2PA has no place for a claim in WebM."""
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's name for media that a trained model made."""
PARAMETER = "org.personalive."
"""Before names in a claim that C2PA does not define."""
OFFLINE = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""Nothing is fetched that a file names, and none of its pictures are copied into the claim."""
SINGLE = str.maketrans(dict.fromkeys('"“”„‟«»″〃＂', "'"))
"""For `quoted`: what looks like a double quotation mark becomes a single one."""
MAX_PEM_BYTES = 4 << 20
"""Of a file with certificates or a key: one with every authority that an operating system knows has 250 kB."""
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Claim:
    """What a result says about itself."""

    model: str
    seed: int
    version: str
    """Of this package."""
    inputs: tuple[tuple[str, str], ...] = ()
    """Role and SHA-256, in hexadecimal digits, of the files that it was made from; empty: not told."""

    def manifest(self, media_type: str) -> str:
        """The claim as C2PA's library takes it."""
        created = {
            "action": "c2pa.created",
            "digitalSourceType": TRAINED,
            "softwareAgent": {"name": "PersonaLive", "version": self.version},
            "parameters": {f"{PARAMETER}model": self.model, f"{PARAMETER}seed": self.seed},
        }
        ingredients = [
            {"title": role, "relationship": "inputTo", "instance_id": f"sha256:{digest}"}
            for role, digest in self.inputs
        ]
        return json.dumps(
            {
                "claim_generator_info": [{"name": "PersonaLive", "version": self.version}],
                "format": media_type,
                "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
                "ingredients": ingredients,
            }
        )


class Signer:
    """A certificate and its private key, which were found to sign."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read them, and sign a picture in memory.

        Args:
            certificate: PEM, with the certificates between it and its authority after it.
            key: PEM, PKCS #8, not encrypted.

        Raises:
            InputError: a file cannot be read, does not hold what it should, or they do not belong together; the
                certificate is not valid today, or not made for signing.
            MissingExtraError: C2PA's library is not installed.
        """
        require("provenance")
        self._certificates = read_pem(certificate, "the certificate")
        self._key = read_pem(key, "the private key")
        self._algorithm = _algorithm(self._certificates, self._key, certificate, key)
        picture, signed = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (16, 16)).save(picture, "PNG")
        picture.seek(0)
        try:
            self._sign(Claim("", 0, ""), "image/png", picture, signed)
        except _c2pa().C2paError as error:
            raise InputError(
                f"the certificate {certificate} cannot sign content credentials: {first_line(error)}. It needs the key "
                "usage digitalSignature, an extended key usage such as emailProtection, and an authority above it"
            ) from error

    def sign(self, part: PartFile, target: Path, claim: Claim) -> PartFile:
        """A signed copy of a finished file, which was read back; the file itself is removed.

        Args:
            part: the file.
            target: the name that it will have.
            claim: what it will say.

        Raises:
            OutputError: it cannot be written, or does not hold what was signed.
        """
        media_type = MEDIA_TYPES[target.suffix.lower()]
        signed = PartFile(target)
        try:
            with part.path.open("rb") as source, os.fdopen(os.dup(signed.descriptor), "r+b") as file:
                self._sign(claim, media_type, source, file)
            verdict = read_credentials(signed.path)
            if not verdict.is_intact:
                raise OutputError(f"{target} cannot be signed: reading it back says: {verdict.sentences[-1]}")
            part, signed = signed, part
        except (OSError, _c2pa().C2paError) as error:
            raise OutputError(f"{target} cannot be signed: {first_line(error)}") from error
        finally:
            signed.discard()
        return part

    def _sign(self, claim: Claim, media_type: str, source: Any, signed: Any) -> None:
        c2pa = _c2pa()
        info = c2pa.C2paSignerInfo(self._algorithm.encode(), self._certificates, self._key, None)
        with c2pa.Signer.from_info(info) as signer, c2pa.Context.from_dict(OFFLINE) as context:
            c2pa.Builder(claim.manifest(media_type), context).sign(signer, media_type, source, signed)


def check_signable(path: Path) -> None:
    """Refuse to sign a kind of result that has no place for a claim.

    Raises:
        OutputError: as above.
    """
    if path.suffix.lower() not in MEDIA_TYPES:
        raise OutputError(f"{path.name} cannot be signed: content credentials go into {', '.join(MEDIA_TYPES)} files")


@dataclass(frozen=True)
class Verdict:
    """What a file claims, and whether it holds."""

    sentences: tuple[str, ...]
    """For people."""
    is_signed: bool = False
    is_intact: bool = False
    """Whether it is signed and nothing was changed since."""
    is_trusted: bool = False
    """Whether, in addition, one of the given authorities vouches for the certificate."""


@dataclass(frozen=True)
class Authorities:
    """Those that are believed when they vouch for a name."""

    path: Path
    """Where their certificates are from."""
    pem: str
    """The certificates, without what else was in the file: it may be of any encoding."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Those whose certificates (PEM) are in a file.

        Raises:
            InputError: it cannot be read, or has no certificates.
            MissingExtraError: the packages for credentials are not installed.
        """
        require("provenance")
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        data = read_pem(path, "the certificates of authorities")
        try:
            found = x509.load_pem_x509_certificates(data)
        except ValueError as error:
            raise InputError(
                f"the certificates of authorities in {path} are not PEM certificates ({first_line(error)}): give a "
                "file with blocks that begin with -----BEGIN CERTIFICATE-----"
            ) from error
        return cls(path, "".join(each.public_bytes(Encoding.PEM).decode() for each in found))


def read_credentials(path: Path, trusted: Authorities | None = None) -> Verdict:
    """Read and check the claim in a file. Nothing is fetched.

    Args:
        path: a picture or a video of a kind that C2PA knows.
        trusted: the authorities that are believed; None: none is.

    Raises:
        InputError: the file cannot be read.
        MissingExtraError: C2PA's library is not installed.
    """
    require("provenance")
    c2pa = _c2pa()
    anchors = {} if trusted is None else {"trust": {"user_anchors": trusted.pem}}
    try:
        with path.open("rb") as file, c2pa.Context.from_dict({**OFFLINE, **anchors}) as context:
            reader = c2pa.Reader.try_create("", file, context=context)
            if reader is None:
                return _unsigned(path)
            with reader:
                store = json.loads(reader.json())
    except c2pa.C2paError.NotSupported:
        return _unsigned(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (c2pa.C2paError, ValueError) as error:
        changed = f"{path.name} has content credentials that are damaged: {plain(first_line(error))}."
        return Verdict((changed,), is_signed=True)
    return _verdict(path, store, trusted)


def _unsigned(path: Path) -> Verdict:
    said = f"{path.name} has no content credentials: nothing proves who made it, or whether it was changed."
    return Verdict((said,))


def _verdict(path: Path, store: dict[str, Any], trusted: Authorities | None) -> Verdict:
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    failures = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    is_intact = store.get("validation_state") in ("Valid", "Trusted")
    is_trusted = store.get("validation_state") == "Trusted"
    signature = manifest.get("signature_info", {})
    names = " of ".join(filter(None, (plain(signature.get("common_name")), plain(signature.get("issuer")))))
    who, when = quoted(names) if names else "somebody without a name", plain(signature.get("time"))
    sentences = [f"{path.name} was signed by {who}{f' at {when}' if when else ''}."]
    if trusted is not None and is_trusted:
        sentences.append(f"An authority in {trusted.path} vouches for that name.")
    else:
        sentences.append(
            "No authority that you trust vouches for that name: anyone can make such a certificate. Give the "
            "certificates of authorities that you trust with --trust."
        )
    sentences += _said(manifest)
    if is_intact:
        sentences.append("Nothing was changed since it was signed.")
    else:
        reasons = {plain(each.get("explanation")) for each in failures if "untrusted" not in each.get("code", "")}
        sentences.append(f"It was changed since it was signed, so nothing of this holds: {'; '.join(sorted(reasons))}.")
    return Verdict(tuple(sentences), True, is_intact, is_trusted)


def _said(manifest: dict[str, Any]) -> Iterator[str]:
    """Sentences about what was done, by whom, and to what."""
    for assertion in manifest.get("assertions", []):
        if not str(assertion.get("label", "")).startswith("c2pa.actions"):
            continue
        for action in assertion.get("data", {}).get("actions", []):
            agent = action.get("softwareAgent", {})
            agent = agent if isinstance(agent, dict) else {"name": agent}
            program = " ".join(filter(None, (plain(agent.get("name")), plain(agent.get("version")))))
            details = ", ".join(
                f"{plain(name.removeprefix(PARAMETER))} {plain(value)}"
                for name, value in sorted(action.get("parameters", {}).items())
                if name.startswith(PARAMETER)
            )
            done = plain(action.get("action")).removeprefix("c2pa.")
            made = f"{done} by {program or 'an unnamed program'}{f' ({details})' if details else ''}"
            yield f"It says: {quoted(made)}."
            if action.get("digitalSourceType") == TRAINED:
                yield "It says: this is synthetic, made by a trained model (trainedAlgorithmicMedia)."
    for ingredient in manifest.get("ingredients", []):
        digest = plain(ingredient.get("instance_id"))
        used = f"its {plain(ingredient.get('title'))} was the file with {digest}"
        yield f"It says: {quoted(used)}."


def plain(value: Any) -> str:
    """Text from a file, which may hold anything, for a terminal: one line of printable characters."""
    spaced = (" " if each.isspace() else each for each in str(value or ""))
    return "".join(each for each in spaced if each.isprintable()).strip()[:200]


def quoted(text: str) -> str:
    """Text from a file between quotation marks, which it cannot close itself to go on in our voice."""
    return f'"{text.translate(SINGLE)}"'


def read_pem(path: Path, what: str) -> bytes:
    """A file that should hold certificates or a key; `what` names it in messages.

    Raises:
        InputError: it is not a file, cannot be read, or is too large for what it should be.
    """
    require_file(path, what)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_PEM_BYTES:
        raise InputError(f"{what} {path} has more than {MAX_PEM_BYTES >> 20} MiB: give a PEM file")
    return data


def _algorithm(certificates: bytes, key: bytes, certificate_path: Path, key_path: Path) -> str:
    """C2PA's name for how this key signs.

    Raises:
        InputError: see `Signer`.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        certificate = x509.load_pem_x509_certificates(certificates)[0]
    except ValueError as error:
        raise InputError(f"the certificate {certificate_path} is not PEM: {first_line(error)}") from error
    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError as error:
        raise InputError(f"the private key {key_path} is encrypted: give one without a password") from error
    except ValueError as error:
        raise InputError(f"the private key {key_path} is not PEM: {first_line(error)}") from error
    if private.public_key() != certificate.public_key():
        raise InputError(f"the private key {key_path} is not that of the certificate {certificate_path}")
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise InputError(
            f"the certificate {certificate_path} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, not today"
        )
    with contextlib.suppress(KeyError):
        if isinstance(private, ec.EllipticCurvePrivateKey):
            return CURVES[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    raise InputError(f"the private key {key_path} is of a kind that C2PA does not have: use P-256, Ed25519 or RSA")


def _c2pa() -> Any:
    import c2pa

    return c2pa
