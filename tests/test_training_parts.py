"""What training is made of: weights in long tensors, and expressions as a target for motion tokens."""

import copy

import pytest
import torch
from torch import nn

from personalive.training.captured import Captured
from personalive.training.expression import GAIN, directions, expression_error
from personalive.training.flat import ALIGNMENT, FlatWeights, clear_gradients, collect_gradients, publish
from personalive.training.sources import SIGNALS, Avatars
from tests.training_worker import SMALL, small_trainee


def networks(seed: int = 0) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    first = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)  # not in its stub
    one = nn.Sequential(first, nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1))
    return {"one": one, "two": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))}


def lowered(masters: dict[str, nn.Module]) -> dict[str, nn.Module]:
    working = {name: copy.deepcopy(network).to(torch.bfloat16) for name, network in masters.items()}
    working["one"][1].float()
    return working


def test_networks_keep_their_values_and_layouts_in_long_tensors():
    masters = networks()
    images = torch.randn(2, 3, 6, 6)
    before = masters["one"](images)
    FlatWeights(masters, masters, masters)
    torch.testing.assert_close(masters["one"](images), before)
    weight = masters["one"][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert all(p.storage_offset() % ALIGNMENT == 0 for network in masters.values() for p in network.parameters())


def test_an_update_changes_what_was_chosen_and_nothing_else():
    masters, average = networks(), networks()
    working = lowered(masters)
    weights = FlatWeights(masters, average, working)
    chosen = weights.choose(["one.0", "two"])
    before = {name: copy.deepcopy(network.state_dict()) for name, network in masters.items()}
    clear_gradients(chosen)
    images = torch.randn(2, 3, 6, 6, dtype=torch.bfloat16)
    # What comes after the chosen layer lets gradients through, and gets none.
    output = working["two"][0](working["one"][2](working["one"][1](working["one"][0](images))).mean(dim=(2, 3)))
    working["two"][1](output).float().square().sum().backward()
    collect_gradients(chosen)
    for stretch in chosen:
        stretch.parameter.sub_(0.1 * stretch.parameter.grad)
    publish(chosen, decay=0.5)
    for key, changes in (("0.weight", True), ("1.weight", False), ("2.weight", False)):
        now = masters["one"].state_dict()[key]
        assert torch.equal(now, before["one"][key]) != changes, key
        torch.testing.assert_close(working["one"].state_dict()[key].float(), now, atol=0.01, rtol=0.01)
        mean = average["one"].state_dict()[key]
        torch.testing.assert_close(mean, torch.lerp(before["one"][key], now, 0.5))
    assert not torch.equal(masters["two"][0].weight, before["two"]["0.weight"])
    assert working["one"][2].weight.grad is None


def test_gradients_in_long_tensors_are_the_gradients():
    masters, reference = networks(), networks()
    weights = FlatWeights(masters, masters, masters)
    chosen = weights.choose(["two"])
    inputs = torch.randn(7, 2)
    for _ in range(2):  # the second time they must not add up
        clear_gradients(chosen)
        masters["two"](inputs).square().sum().backward()
    reference["two"](inputs).square().sum().backward()
    for ours, theirs in zip(masters["two"].parameters(), reference["two"].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_on_a_cpu_a_captured_function_is_the_function():
    captured = Captured("the sum", lambda tensors: {"sum": tensors["a"] + tensors["b"]})
    assert torch.equal(captured({"a": torch.ones(2), "b": torch.ones(2)})["sum"], torch.full((2,), 2.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_inputs_that_come_and_go_are_captured_once_each():
    runs = []

    def run(tensors):
        runs.append(tuple(tensors))
        return {"sum": sum(tensor.float().sum() for tensor in tensors.values())}

    captured = Captured("the sum", run)
    a, flag = torch.ones(3, device="cuda"), torch.ones(2, dtype=torch.bool, device="cuda")
    for _ in range(3):
        assert captured({"a": a, "flag": flag})["sum"] == 5
        assert captured({"a": a, "b": 2 * a, "flag": flag})["sum"] == 11
    assert len(runs) == 4  # each once before its capture and once for it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_captured_gradients_are_the_gradients():
    weight = torch.full((3,), 2.0, device="cuda", requires_grad=True)

    def run(inputs):
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad.zero_()
        loss = (weight * inputs["x"]).square().sum()
        loss.backward()
        return {"loss": loss}

    captured = Captured("the gradients", run)
    for scale in (1.0, 3.0, 0.5):
        loss = captured({"x": torch.full((3,), scale, device="cuda")})["loss"]
        assert loss.item() == 12 * scale**2 and not loss.requires_grad
        assert torch.equal(weight.grad, torch.full_like(weight, 4 * scale**2))


def test_tokens_that_say_the_expression_have_no_error():
    trainee = small_trainee(seed=0)
    columns = directions(trainee)
    signals = torch.rand(5, len(SIGNALS)) * 2 - 1
    size = trainee.config.motion_encoder.tokens, trainee.config.motion_encoder.token_width
    tokens = (GAIN * signals @ columns.T).unflatten(1, size)
    assert expression_error(tokens, signals, columns) < 1e-10
    assert expression_error(tokens.flip(0), signals, columns) > 0.1
    assert torch.equal(columns, directions(small_trainee(seed=1)))


def test_a_driver_and_its_target_do_the_same_and_are_not_the_same():
    source = Avatars(SMALL.size, torch.device("cpu"))
    reference, driving, target = source.stills(4, 3, seed=5)
    assert torch.equal(driving.expression, target.expression)
    assert torch.equal(driving.pose.angles, target.pose.angles)
    assert not any(torch.equal(driving.images[i], target.images[i]) for i in range(4))
    # Each pair has poses of its own, and a reference is one of the target's pictures.
    assert not torch.equal(target.expression[0], target.expression[1])
    assert all(any(torch.equal(reference.images[i, 0], shot) for shot in target.images[i]) for i in range(4))
