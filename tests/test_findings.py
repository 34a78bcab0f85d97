"""What trials have found is kept for the next start, and believed only where it still holds."""

import json

import pytest
import torch

from personalive.accel import autotune
from personalive.accel.findings import Findings


@pytest.fixture
def timed(monkeypatch):
    """The number in a function's name stands for its time."""
    names = []

    def stand_in(function, arguments, trials=5):
        names.append((function.__name__, trials))
        return float(function.__name__.rpartition("_")[2])

    monkeypatch.setattr(autotune, "milliseconds", stand_in)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return names


def doubling(path, **factors):
    def candidate(name, factor):
        def run(x):
            return x * factor

        run.__name__ = name
        return run

    functions = {name: candidate(name, factor) for name, factor in factors.items()}
    return autotune.Autotuned("doubling", functions, findings=Findings(path))


def test_a_later_start_believes_it_after_one_run(timed, tmp_path):
    path = tmp_path / "new" / "found.json"
    assert doubling(path, plain_3=2.0, fast_2=2.0, slow_4=2.0)(torch.ones(3))[0] == 2
    assert len(timed) == 3
    timed.clear()
    again = doubling(path, plain_3=2.0, fast_2=2.0, slow_4=2.0)
    again(torch.ones(3))
    assert again.choices == {"3": "fast_2"} and timed == [("fast_2", 1), ("plain_3", 1)]
    again(torch.ones(4))
    assert set(Findings(path)._found["doubling"].values()) == {"fast_2"} and len(Findings(path)._found["doubling"]) == 2


@pytest.mark.parametrize("now", [{"plain_3": 2.0, "fast_2": 5.0, "other_1": 2.0}, {"plain_1": 2.0, "fast_2": 2.0}])
def test_a_winner_that_is_wrong_or_slow_by_now_is_measured_again(timed, tmp_path, now):
    doubling(tmp_path / "found.json", plain_3=2.0, fast_2=2.0)(torch.ones(3))
    again = doubling(tmp_path / "found.json", **now)
    assert again(torch.ones(3))[0] == 2
    assert again.choices["3"] in ("other_1", "plain_1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[1]",
        '{"doubling": 3}',
        '{"doubling": {"3 torch.float32": 7}}',
        '{"doubling": {"3 torch.float32": "x"}}',
    ],
)
def test_a_damaged_or_foreign_file_is_ignored_and_replaced(timed, tmp_path, text):
    path = tmp_path / "found.json"
    path.write_text(text)
    assert doubling(path, plain_3=2.0, fast_2=2.0)(torch.ones(3))[0] == 2
    assert json.loads(path.read_text()) == {"doubling": {"3 torch.float32": "fast_2"}}


def test_where_nothing_can_be_stored_nothing_fails(timed, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert doubling(tmp_path / "file" / "found.json", plain_3=2.0, fast_2=2.0)(torch.ones(3))[0] == 2
