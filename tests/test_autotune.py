"""The fastest of several candidates is taken, and none that is wrong, unsuitable or broken."""

import pytest
import torch
import torch.nn.functional as F

from personalive.accel import autotune
from personalive.accel.ops.attention import autotuned_attention


@pytest.fixture
def timed(monkeypatch):
    """Names of the functions that have been timed, each by the number in its name."""
    names = []

    def stand_in(function, arguments):
        names.append(function.__name__)
        return float(function.__name__.rpartition("_")[2])

    monkeypatch.setattr(autotune, "milliseconds", stand_in)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return names


def candidate(name, factor):
    def run(x):
        if factor is None:
            raise RuntimeError("not on this GPU")
        return x * factor

    run.__name__ = name
    return run


FACTORS = {"first_3": 2.0, "wrong_1": 3.0, "broken_1": None, "fast_2": 2.001, "slow_4": 2.0, "long_1": 2.001}


def test_the_fastest_that_is_right_is_taken(timed, monkeypatch):
    choice = autotune.Autotuned(
        "doubling",
        {name: candidate(name, factor) for name, factor in FACTORS.items()},
        suits=lambda name, x: name != "long_1" or len(x) > 9,
    )
    for length in (3, 3, 4):
        torch.testing.assert_close(choice(torch.ones(length)), torch.full((length,), 2.001))
    assert choice.choices == {"3": "fast_2", "4": "fast_2"}
    assert timed == ["first_3", "fast_2", "slow_4"] * 2  # once for each shape
    choice(torch.ones(10))
    assert choice.choices["10"] == "long_1"

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choice(torch.ones(5))[0] == 2.0 and len(choice.choices) == 3


def test_where_nothing_else_suits_nothing_is_timed(timed):
    attention = autotuned_attention()
    query, key = torch.randn(2, 3, 70, 24), torch.randn(2, 3, 80, 24)  # too narrow for the fused kernels
    torch.testing.assert_close(attention(query, key, key), F.scaled_dot_product_attention(query, key, key))
    assert timed == [] and set(attention.choices.values()) == {"default"}
