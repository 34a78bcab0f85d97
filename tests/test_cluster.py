"""What Ray is told of a cluster, where Ray itself is not needed: see `test_cluster_ray` for the rest."""

import logging
import sys
import types

import pytest

from personalive.cluster import ALONE, stay_alone


@pytest.mark.parametrize("imported", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_ray_that_was_imported_too_early_is_warned_of(imported, known, monkeypatch, caplog):
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)  # so that what is set here is undone
        if not known:
            monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    if imported:
        monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    with caplog.at_level(logging.WARNING):
        stay_alone()
    warned = "others may reach it" in caplog.text and all(name in caplog.text for name in ALONE)
    assert warned == (imported and not known)
