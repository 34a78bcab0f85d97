"""The fastest of several candidates is taken, and none that is wrong or does not work."""

import torch

from personalive.accel import autotune as measured


def test_the_fastest_that_is_right_is_taken(monkeypatch):
    times = {"first": 3.0, "fastest, but wrong": 1.0, "fast": 2.0, "slow": 4.0}
    measured_times = []

    def stand_in(function, arguments):
        measured_times.append(function.__name__)
        return times[function.__name__]

    def candidate(name, factor):
        def run(x):
            if factor is None:
                raise RuntimeError("not on this GPU")
            return x * factor

        run.__name__ = name
        return run

    monkeypatch.setattr(measured, "milliseconds", stand_in)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    factors = {"first": 2.0, "fastest, but wrong": 3.0, "broken": None, "fast": 2.001, "slow": 2.0}
    choice = measured.Measured("doubling", {name: candidate(name, factor) for name, factor in factors.items()})
    for length in (3, 3, 4):
        torch.testing.assert_close(choice(torch.ones(length)), torch.full((length,), 2.001))
    assert choice.choices == {"3": "fast", "4": "fast"}
    assert measured_times == ["first", "fast", "slow"] * 2  # once for each shape

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choice(torch.ones(5))[0] == 2.0 and len(choice.choices) == 2
