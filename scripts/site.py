"""Hooks of the documentation site (mkdocs.yml): pages that are not files in docs/.

README and its like are where people look for them on a code host, and their links are written for that place. Here they
become pages and their links lead to pages. A link to something that the site does not have becomes plain text. There is
one API page for each package, so a new module needs no page of its own.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
    "weights/demo/README.md": "demo_model.md",
}
"""Path in the repository → path in the site."""
PACKAGES = ("engine", "models", "accel", "media", "animate", "weights")
"""Whose API is shown: what a program calls. `live`, `cli` and `training` are programs themselves."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/ and the API's."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "api/personalive.md", content=_api_page("personalive", recursive=False)))
    for package in PACKAGES:
        content = _api_page(f"personalive.{package}", recursive=True)
        files.append(File.generated(config, f"api/{package}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    return relink(markdown, page.file.src_uri, {file.src_uri for file in files})


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the API's citations of reference documents links."""
    if not page.file.src_uri.startswith("api/"):
        return html
    return re.sub(r"docs/reference/(\w+)\.md", r'<a href="../../reference/\1/">\g<0></a>', html)


def relink(markdown: str, page: str, pages: set[str]) -> str:
    """Links of a page, changed from where its file lies in the repository to where it lies in the site.

    Args:
        page: its path in the site.
        pages: paths of everything in the site.
    """
    inside = {new: old for old, new in OUTSIDE.items()}
    source = PurePosixPath(inside.get(page, f"docs/{page}"))

    def changed(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        in_repository = posixpath.normpath(source.parent / target)
        in_site = OUTSIDE.get(in_repository, in_repository.removeprefix("docs/"))
        if in_site not in pages:
            return link[0] if image else text
        return f"{image}[{text}]({posixpath.relpath(in_site, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(changed, markdown)


def _api_page(package: str, recursive: bool) -> str:
    """A page that mkdocstrings fills: the package, then its modules in the order of their names."""
    folder = ROOT.joinpath(*package.split("."))
    if not folder.is_dir():
        raise ValueError(f"there is no package {package}: correct PACKAGES in {__file__} and the pages in mkdocs.yml")
    modules = sorted(folder.rglob("*.py") if recursive else folder.glob("*.py"))
    names = [".".join([package, *path.relative_to(folder).with_suffix("").parts]) for path in modules]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    return f"# {package}\n\n" + "\n".join(f"::: {name}\n" for name in names)
