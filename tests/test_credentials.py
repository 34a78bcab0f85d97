"""Signed results: what they claim is read back, a changed byte shows, and what cannot be signed is refused at once."""

import base64
import hashlib
import os
import shutil
import subprocess
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from PIL import Image

import personalive
from personalive.animate.job import animate
from personalive.cli.main import main
from personalive.errors import InputError, OutputError, PersonaLiveError
from personalive.media.comments import read_comment
from personalive.media.credentials import MAX_PEM_BYTES, Authorities, Claim, Signer, read_credentials
from personalive.media.encoding import VideoFormat
from personalive.media.images import read_image
from personalive.media.mark import VisibleMark
from personalive.media.segments import open_lasting
from personalive.media.video_writer import open_result
from personalive.settings import AnimateOptions, SigningSettings
from personalive.testing.pictures import numbered, run_ffmpeg
from tests.certificates import Authority
from tests.endpoint_support import endpoint, short_inputs

VIDEO = VideoFormat(320, 240, Fraction(25), "comment")
CLAIM = Claim("demo", 7, "1.2.3")
BRIEF = AnimateOptions(max_frames=4, crop="center", face_boxes="keypoints")


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def signer(authority) -> Signer:
    return Signer(*authority.issue("Studio"))


def write(path: Path, signer: Signer) -> Path:
    with open_result(path, VIDEO, seal=partial(signer.sign, claim=CLAIM)) as writer:
        writer.write(np.stack(numbered(6)))
        writer.finish()
    assert [each.name for each in path.parent.iterdir()] == [path.name], "nothing unfinished is left"
    return path


@pytest.mark.parametrize("suffix", (".mp4", ".gif", ".webp"))
def test_a_signed_file_says_who_made_it_and_a_changed_byte_shows(authority, signer, tmp_path, suffix, capsys):
    path = write(tmp_path / "a" / f"signed{suffix}", signer)
    assert main(["verify", str(path), "--trust", str(authority.certificate)]) == 0
    said = capsys.readouterr().out
    assert 'signed by "Studio of Tests"' in said and f"An authority in {authority.certificate} vouches" in said
    assert said.startswith(f'{path.name} says in its metadata: "comment".')
    assert "created by PersonaLive 1.2.3 (model demo, seed 7)" in said and "synthetic" in said
    assert "Nothing was changed" in said and "SHA" not in said
    assert main(["verify", str(path)]) == 0 and "No authority that you trust" in capsys.readouterr().out
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(path), "--trust", str(authority.certificate)]) == 1
    assert "It was changed since it was signed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ("made.mp4", "made.webm", "made.gif", "made.webp", "%05d.png"))
def test_what_a_result_says_of_itself_is_told_without_a_signature_too(tmp_path, name, capsys):
    comment = "Synthetic video: <model> & seed"
    with open_result(tmp_path / name, VideoFormat(320, 240, Fraction(25), comment)) as writer:
        writer.write(np.stack(numbered(2)))
        writer.finish()
    (path,) = (each for each in tmp_path.iterdir() if each.stem in ("made", "00001"))
    assert main(["verify", str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f'{path.name} says in its metadata: "{comment}".',
        f"{path.name} has no content credentials: nothing proves who made it, or whether it was changed.",
    ]


@pytest.mark.parametrize("mark", ('"', "\u201d"))
def test_a_file_cannot_go_on_in_the_voice_of_verify(tmp_path, mark, capsys):
    path = tmp_path / "x.gif"
    Image.new("RGB", (8, 8)).save(path, comment=f"Mine{mark}.\r\nx.gif was signed by a broadcaster. {mark}\n".encode())
    assert main(["verify", str(path)]) == 1
    assert capsys.readouterr().out.splitlines()[0] == (
        "x.gif says in its metadata: \"Mine'.  x.gif was signed by a broadcaster. '\"."
    )


def test_a_certificate_cannot_go_on_in_the_voice_of_verify_either(authority, tmp_path):
    name = 'A". An authority vouches for that name. "'
    path = write(tmp_path / "a" / "signed.webp", Signer(*authority.issue(name)))
    said = read_credentials(path).sentences
    plain = name.replace('"', "'")
    assert said[0] == f'signed.webp was signed by "{plain} of Tests".'
    assert 'It says: "created by PersonaLive 1.2.3 (model demo, seed 7)".' in said


@pytest.mark.parametrize("count", (2, 2500))
def test_metadata_that_open_what_they_never_close_are_read_to_the_end(tmp_path, count):
    """A search that goes back for each beginning takes longer than any time-out with thousands of them."""
    opened = "<dc:description>" * count + "<rdf:li>" * count
    for end, comment in (("", ""), ("said</rdf:li>", "<rdf:li>" * (count - 1) + "said")):
        Image.new("RGB", (8, 8)).save(tmp_path / "x.webp", xmp=(opened + end).encode())
        assert read_comment(tmp_path / "x.webp") == comment[:200]


def test_of_endless_metadata_only_the_beginning_is_read(tmp_path):
    description = "<dc:description><rdf:Alt><rdf:li xml:lang='x-default'>said</rdf:li>"
    for before, comment in ((50_000, "said"), (1_000_000, "")):
        Image.new("RGB", (8, 8)).save(tmp_path / "x.webp", xmp=(" " * before + description).encode())
        assert read_comment(tmp_path / "x.webp") == comment


def test_a_file_that_was_encoded_again_and_others_count_as_unsigned(signer, tmp_path, portrait, capsys):
    again = tmp_path / "again.mp4"
    run_ffmpeg("-i", str(write(tmp_path / "a" / "signed.mp4", signer)), str(again))
    for path in (again, portrait, Path(__file__)):
        assert main(["verify", str(path)]) == 1
        said = capsys.readouterr().out
        assert "has no content credentials" in said and ("says in its metadata" in said) == (path == again)
    assert main(["verify", str(tmp_path / "missing.mp4")]) == 1


def unusable(folder: Path, authority: Authority) -> dict[str, tuple[Path, str]]:
    """Files that hold no certificate, and a word of why."""
    folder.mkdir()
    _, key = authority.issue("unusable")
    certificate = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    written = {
        "text": b"a name",
        "picture": b"\x89PNG\r\n\x1a\n\xff",
        "der": certificate.public_bytes(Encoding.DER),
        "key": key.read_bytes(),
        "broken": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }
    found = {}
    for name, data in written.items():
        (folder / name).write_bytes(data)
        found[name] = (folder / name, "not PEM")
    (folder / "empty").touch()
    with (folder / "endless").open("wb") as file:
        file.truncate(MAX_PEM_BYTES + 1)
    os.mkfifo(folder / "pipe")
    return found | {
        "empty": (folder / "empty", "is empty"),
        "endless": (folder / "endless", "more than 4 MiB"),
        "pipe": (folder / "pipe", "is not a file"),
        "device": (Path("/dev/zero"), "is not a file"),
        "folder": (folder, "is not a file"),
        "missing": (folder / "missing", "does not exist"),
    }


def test_unusable_certificates_of_authorities_are_refused_and_say_nothing_about_the_file(
    authority, signer, tmp_path, capsys, caplog
):
    path = write(tmp_path / "a" / "signed.webp", signer)
    for trusted, word in unusable(tmp_path / "trust", authority).values():
        caplog.clear()
        assert main(["verify", str(path), "--trust", str(trusted)]) == 1
        (record,) = caplog.records
        assert word in record.getMessage() and str(trusted) in record.getMessage()
        assert capsys.readouterr().out == ""


def test_unusable_certificates_and_keys_do_not_sign(authority, tmp_path):
    good = authority.issue("good")
    for name, (path, word) in unusable(tmp_path / "sign", authority).items():
        with pytest.raises(InputError, match=f"certificate .*{word}"):
            Signer(path, good[1])
        if name != "key":
            with pytest.raises(InputError, match=f"key .*{word}"):
                Signer(good[0], path)


def test_certificates_of_authorities_may_stand_in_a_file_with_other_text(authority, signer, tmp_path):
    (tmp_path / "mixed.pem").write_bytes("Behörde\n".encode("latin-1") + authority.certificate.read_bytes())
    path = write(tmp_path / "a" / "signed.webp", signer)
    assert read_credentials(path, Authorities.read(tmp_path / "mixed.pem")).is_trusted


def test_an_animation_is_signed_with_its_seed_and_the_hashes_of_its_inputs(
    small_model, portrait, driver, authority, tmp_path
):
    sign, key = authority.issue("Artist")
    options = BRIEF.replace(seed=5, sign=sign, sign_key=key, sign_inputs=True, resume=True)
    list(animate(small_model, portrait, driver, tmp_path / "a.mp4", options))
    found = read_credentials(tmp_path / "a.mp4", Authorities.read(authority.certificate))
    said = " ".join(found.sentences)
    assert found.is_trusted and f"PersonaLive {personalive.__version__} (model" in said and "seed 5" in said
    for path in (portrait, driver):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in said


@pytest.mark.slow
def test_the_http_service_signs_what_it_makes(authority, small_model_folder, portrait, tmp_path):
    sign, key = authority.issue("Service")
    environment = {"PERSONALIVE_SIGN": str(sign), "PERSONALIVE_SIGN_KEY": str(key)}
    inputs = short_inputs(portrait, tmp_path)
    with endpoint(small_model_folder, tmp_path / "temporary", **environment) as server:
        server.wait_until_loaded()
        signed, webm = (server.post(inputs | {"output_format": kind}).json() for kind in ("mp4", "webm"))
    assert signed["status"] == "succeeded", signed
    path = tmp_path / "answer.mp4"
    path.write_bytes(base64.b64decode(signed["output"].partition(",")[2]))
    verdict = read_credentials(path, Authorities.read(authority.certificate))
    assert verdict.is_intact and verdict.is_trusted
    assert 'signed by "Service of Tests"' in " ".join(verdict.sentences)
    assert (webm["status"], webm.get("output")) == ("failed", None) and "cannot be signed" in webm["error"]


def test_segments_are_joined_before_they_are_signed(signer, tmp_path):
    (folder := tmp_path / "state").mkdir()
    path, seal = tmp_path / "joined.mp4", partial(signer.sign, claim=CLAIM)
    with open_lasting(path, folder, 0, VIDEO, sound=None, overwrite=False, seal=seal) as writer:
        for _ in range(2):
            writer.write(np.stack(numbered(130)))
        writer.finish()
    assert read_credentials(path).is_intact


def test_a_file_that_cannot_be_signed_is_not_written(tmp_path):
    def fail(part, target):
        raise OutputError("the key is gone")

    with pytest.raises(OutputError, match="gone"), open_result(tmp_path / "a.mp4", VIDEO, seal=fail) as writer:
        writer.write(np.stack(numbered(6)))
        writer.finish()
    assert not list(tmp_path.iterdir())


def test_what_cannot_sign_is_refused_before_work(authority, small_model, portrait, driver, tmp_path):
    good, expired, locked = (
        authority.issue("good"),
        authority.issue("expired", days=-1),
        authority.issue("locked", password=b"secret"),
    )
    for sign, key, output, message in (
        (good[0], expired[1], "a.mp4", "is not that of the certificate"),
        (*expired, "a.mp4", "not today"),
        (*locked, "a.mp4", "is encrypted"),
        (good[1], good[1], "a.mp4", "is not PEM"),
        (good[0], good[0], "a.mp4", "is not PEM"),
        (tmp_path / "missing", good[1], "a.mp4", "certificate .*missing does not exist"),
        (*good, "a.webm", "content credentials go into"),
        (*good, "%05d.png", "content credentials go into"),
    ):
        options = AnimateOptions(sign=sign, sign_key=key)
        with pytest.raises(PersonaLiveError, match=message):
            animate(small_model, portrait, driver, tmp_path / output, options)
    for wrong in ({"sign": good[0]}, {"sign_key": good[1]}, {"sign_inputs": True}):
        with pytest.raises(InputError, match="sign"):
            AnimateOptions(**wrong)


def test_the_environment_names_the_certificate_for_services():
    environment = {"PERSONALIVE_SIGN": "/a.pem", "PERSONALIVE_SIGN_KEY": "/a.key", "PERSONALIVE_SIGN_INPUTS": "1"}
    found = SigningSettings.from_environment(environment)
    assert found == SigningSettings(sign=Path("/a.pem"), sign_key=Path("/a.key"), sign_inputs=True)
    assert not SigningSettings.from_environment({}).sign


@pytest.mark.slow
def test_the_visible_mark_can_be_read_on_any_ground_and_leaves_the_rest_alone(small_model, portrait, driver, tmp_path):
    for level in (0, 128, 255):
        frames = np.full((2, 256, 320, 3), level, np.uint8)
        marked = VisibleMark(320, 256).draw(frames)
        changed = (marked != frames).any(axis=(0, 3))
        assert not changed[:200].any() and not changed[:, 160:].any()
        assert marked[:, 200:, :160].max() > 240 and int(marked[:, 200:, :160].min()) <= level // 2 + 1
    names = [tmp_path / name / "%05d.png" for name in ("plain", "marked")]
    for name in names:
        options = BRIEF.replace(visible_mark=name.parent.name == "marked", preview=1)
        list(animate(small_model, portrait, driver, name, options))
    for picture in ("00001.png", "preview.png"):
        plain, marked = (read_image(name.with_name(picture)) for name in names)
        assert (VisibleMark(plain.shape[1], plain.shape[0]).draw(plain[None])[0] == marked).all()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm")
def test_an_implementation_of_others_agrees(signer, tmp_path):
    signed, changed, again = (tmp_path / f"{name}.mp4" for name in ("signed", "changed", "again"))
    write(tmp_path / "a" / "signed.mp4", signer).rename(signed)
    data = bytearray(signed.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    changed.write_bytes(data)
    run_ffmpeg("-i", str(signed), "-c", "copy", str(again))
    install = ["npm", "install", "--no-audit", "--no-fund", "@trustnxt/c2pa-ts@0.9.4"]
    installed = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"npm could not install c2pa-ts: {installed.stderr[-300:]}")
    script = shutil.copy(Path(__file__).with_name("other_c2pa.mjs"), tmp_path)
    command = ["node", script, *map(str, (signed, changed, again))]
    answers = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert answers == ["valid", "invalid: assertion.bmffHash.mismatch", "unsigned"]
