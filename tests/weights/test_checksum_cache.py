"""What is remembered of files, when the record is not what this version would have written."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from personalive.weights.checksum_cache import ChecksumCache
from personalive.weights.manifest import FileDigest
from tests.weights.support import refused

CONTENT = b"weights"
RIGHT = FileDigest(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
DIGEST = RIGHT.digest

ODD: list[Any] = [
    *(None, 7, "text", [], [1, 2], {}, {"size": 7}),
    {"size": 7, "digest": DIGEST},
    {"size": "7", "digest": DIGEST, "stamp": [7, 1, 1]},
    {"size": 7, "digest": ["0"], "stamp": [7, 1, 1]},
    {"size": 7, "digest": "no digest", "stamp": [7, 1, 1]},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("entry", ODD, ids=json.dumps)
def test_an_entry_of_another_form_counts_as_none(file: Path, tmp_path: Path, entry: Any) -> None:
    cache = ChecksumCache(tmp_path / "checksums.json")
    cache.path.write_text(json.dumps({"file": entry, str(file): entry}))
    assert cache.recorded("file") is None
    assert cache.digest(file) == DIGEST
    cache.path.write_text(json.dumps({"file": entry}))
    with refused("file is damaged", "expected " + "0" * 64):
        cache.check("file", file, "file", FileDigest(None, "0" * 64), remedy="")
    cache.check("file", file, "file", RIGHT, remedy="")
    assert cache.recorded("file") == RIGHT


def test_a_file_whose_digest_was_never_known_is_read_for_it(file: Path, tmp_path: Path) -> None:
    cache = ChecksumCache(tmp_path / "checksums.json")
    cache.check(str(file), file, "file", FileDigest(None, None), remedy="")
    assert cache.digest(file) == DIGEST


def test_a_name_that_no_file_can_have_is_forgotten(file: Path, tmp_path: Path) -> None:
    cache, name = ChecksumCache(tmp_path / "checksums.json"), "/" + "x" * 5000
    cache.path.write_text(json.dumps({name: {"size": 7, "digest": DIGEST, "stamp": [7, 1, 1]}}))
    assert cache.digest(file) == DIGEST
    assert json.loads(cache.path.read_text()).keys() == {str(file)}
