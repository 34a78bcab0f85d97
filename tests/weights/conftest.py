"""Small published weights, in a folder and behind a hub on loopback."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from personalive import weights
from tests.hub_stand_in import HubStandIn
from tests.published_layout import SMALL, State, as_repositories, random_states, write_layout


@pytest.fixture(scope="session")
def states() -> dict[str, State]:
    return random_states()


@pytest.fixture(scope="session")
def pristine(states: dict[str, State], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    write_layout(root, states)
    return root


@pytest.fixture
def layout(pristine: Path, tmp_path: Path) -> Path:
    """A folder in the published layout that the test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "layout"))


@pytest.fixture
def server(layout: Path, tmp_path: Path) -> Iterator[HubStandIn]:
    with HubStandIn(as_repositories(layout, tmp_path / "repositories")) as server:
        yield server


@pytest.fixture
def hub(server: HubStandIn, tmp_path: Path) -> weights.Hub:
    """The client's side: the server's address and an empty cache."""
    return weights.Hub(server.url, home=tmp_path / "home")


@pytest.fixture(scope="session")
def filled_home(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled")
    with HubStandIn(as_repositories(pristine, root / "repositories")) as server:
        weights.convert(hub=weights.Hub(server.url, home=root / "home"), config=SMALL)
    return root / "home"


@pytest.fixture
def filled(filled_home: Path, tmp_path: Path) -> weights.Hub:
    """A cache with everything in it, also converted to fp16; its hub cannot be reached."""
    home = shutil.copytree(filled_home, tmp_path / "filled", symlinks=True)
    return weights.Hub("http://127.0.0.1:9", home=Path(home))
