"""Documents: what they and the code refer to exists."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"

NUMBER = r"\d+(?:\.\d+)*"
# "docs/reference/model.md section 1.3", "... sections 1.3 and 4", "... sections 2 to 4", over a line's end too.
CITATION = re.compile(rf"docs/reference/(\w+)\.md\s+sections?\s+({NUMBER}(?:(?:,|\s+and|\s+to)\s+{NUMBER})*)")
# Within the reference itself: "§9.2", "§§1–9", "model.md §4", "`streaming.md` §10", "[model.md](model.md) §4".
PARAGRAPH = re.compile(rf"(?:\b(\w+)\.md[`)]?\s+)?§+({NUMBER}(?:–{NUMBER})?)")
HEADING = re.compile(rf"^#+ ({NUMBER})\.? ", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|mailto:|<)([^)\s]+)\)")


def written_files() -> list[Path]:
    """Every file that people write, in git or about to be."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    kinds = {".py", ".md", ".js", ".sh", ".toml", ".yaml", ".yml", ".txt", ".html", ".css", ".cff"}
    return [ROOT / name for name in names if Path(name).suffix in kinds and (ROOT / name).is_file()]


DOCUMENTS = [path for path in written_files() if path.suffix == ".md"]


def sections(document: str) -> set[str]:
    """Numbers of a reference document's sections."""
    return set(HEADING.findall((REFERENCE / f"{document}.md").read_text()))


def missing_citations(text: str) -> Iterator[str]:
    """Sections that a text cites and that do not exist."""
    for document, numbers in CITATION.findall(text):
        if not (REFERENCE / f"{document}.md").exists():
            yield f"docs/reference/{document}.md"
            continue
        for number in re.findall(NUMBER, numbers):
            if number not in sections(document):
                yield f"docs/reference/{document}.md section {number}"


def test_every_section_that_is_cited_exists() -> None:
    texts = {path: path.read_text() for path in written_files() if path != Path(__file__)}
    missing = {str(path.relative_to(ROOT)): [*missing_citations(text)] for path, text in texts.items()}
    assert {path: found for path, found in missing.items() if found} == {}
    assert sum(len(CITATION.findall(text)) for text in texts.values()) > 40, "the pattern no longer finds citations"


def test_every_citation_has_the_one_form() -> None:
    """A reference document is named with its section, so that the test above sees it."""
    loose = re.compile(r"(?<!docs/reference/)\b(?:model|streaming|weights)\.md,?\s+sections?\b|\bspec/\w+\.md")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in written_files()
        if path != Path(__file__)
        for match in loose.finditer(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize("document", ["model", "streaming", "weights"])
def test_the_reference_refers_to_its_own_sections(document: str) -> None:
    text = (REFERENCE / f"{document}.md").read_text()
    references = [
        (other or document, number) for other, found in PARAGRAPH.findall(text) for number in found.split("–")
    ]
    assert references
    assert [(other, number) for other, number in references if number not in sections(other)] == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("docs/reference/model.md section 99", ["docs/reference/model.md section 99"]),
        ("docs/reference/model.md sections 1.3 and\n4.99", ["docs/reference/model.md section 4.99"]),
        ("docs/reference/weights.md sections 1 and 8)", []),
        ("docs/reference/nowhere.md section 1", ["docs/reference/nowhere.md"]),
    ],
)
def test_a_wrong_citation_is_found(text: str, missing: list[str]) -> None:
    assert [*missing_citations(text)] == missing


def anchors(document: Path) -> set[str]:
    """What a link into a document may name: its headings, as GitHub and the site call them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in LINK.findall(document.read_text()):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


EXPLAINING = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/{name}.md" for name in ("architecture", "decisions")),
)
PLAIN = ("live", "scale", "speed", "cpu", "training", "security", "glossary")
NAMED_FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|sh|toml|cff))`")


@pytest.mark.parametrize("document", [*EXPLAINING, *(f"docs/{name}.md" for name in PLAIN)])
def test_every_file_that_is_named_exists(document: str) -> None:
    """Paths are those of the repository or of the package, depending on what the text is about."""
    stands_for_another = re.compile("OWNER|STEP|TIMESTAMP|FOLDER|PORTRAIT|DRIVER|application/")
    named = {name for name in NAMED_FILE.findall((ROOT / document).read_text()) if not stands_for_another.search(name)}
    made = {"outputs/"}
    rooms = (".", "personalive", "personalive/training", "personalive/training/heads", "tests", "tests/hostile")
    exists = {name: any((ROOT / start / name).exists() for start in rooms) for name in named - made}
    assert [name for name in sorted(exists) if not exists[name]] == []


def test_every_module_that_is_named_exists() -> None:
    module = re.compile(r"python3? -m ((?:personalive|benchmarks|tests)(?:\.\w+)*)")
    named = {name for path in DOCUMENTS for name in module.findall(path.read_text())}
    assert len(named) > 5
    for name in named:
        file = ROOT / name.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), name


def test_every_file_in_the_drawing_exists() -> None:
    drawing = (ROOT / "docs" / "images" / "architecture.svg").read_text()
    files = re.findall(r"\b(?:models|engine)/\w+\.py", drawing)
    assert files
    assert [name for name in files if not (ROOT / "personalive" / name).exists()] == []


def test_the_citation_names_the_packages_version() -> None:
    from personalive import __version__

    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == __version__


def test_every_test_that_the_table_of_threats_names_exists() -> None:
    named = set(re.findall(r"\b(test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named and [name for name in sorted(named) if f"def {name}(" not in code] == []
