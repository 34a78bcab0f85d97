"""Pictures that are drawn ahead for the autoencoder."""

import pytest
import torch

from personalive.training import pool as pools
from personalive.training.pool import REUSE, Pool, vary
from personalive.training.shots import Shots
from personalive.training.sources import Avatars

CPU = torch.device("cpu")
SIZE, BATCH = 32, 3


class Counted(Avatars):
    """Drawn people, and the seeds of what was drawn."""

    def __init__(self) -> None:
        super().__init__(SIZE, CPU)
        self.seeds: list[int] = []

    def pictures(self, count: int, seed: int) -> Shots:
        self.seeds.append(seed)
        return super().pictures(count, seed)


@pytest.fixture
def still(monkeypatch):
    """Pictures are only mirrored."""
    for name in ("ZOOM", "SHIFT", "CONTRAST", "BRIGHTNESS", "TINT"):
        monkeypatch.setattr(pools, name, 0.0)


def test_what_is_taken_is_what_was_drawn_or_its_mirror_image(still):
    source = Counted()
    pool = Pool(source, 2 * BATCH + 1, BATCH)
    taken = torch.cat([pool.take(64 * step).images[:, 0] for step in range(8)])
    assert taken.shape == (8 * BATCH, 3, SIZE, SIZE)
    assert len(source.seeds) == 2, "a pool holds whole batches"
    drawn = torch.cat([Avatars(SIZE, CPU).pictures(BATCH, seed).images[:, 0] for seed in source.seeds])
    assert (drawn[:BATCH] - drawn[BATCH:]).abs().max() > 0.1
    drawn = torch.cat((drawn, drawn.flip(3)))
    far = (taken[:, None] - drawn[None]).abs().amax(dim=(2, 3, 4))
    assert far.amin(dim=1).max() < 0.01
    assert len(far.argmin(dim=1).unique()) > len(drawn) / 2


def test_the_oldest_batch_is_replaced_after_a_while():
    source = Counted()
    pool = Pool(source, 2 * BATCH, BATCH)
    for step in range(2 * REUSE + 1):
        before = pool.state_dict()["seeds"]
        pool.take(step)
        after = pool.state_dict()["seeds"]
        if step and step % REUSE == 0:
            assert sum(old != new for old, new in zip(before, after, strict=True)) == 1 and step in after
    assert len(source.seeds) == 4 and set(after) == {REUSE, 2 * REUSE}


def test_a_pool_depends_on_its_seeds_alone_and_continues_from_its_state():
    one, other, later = (Pool(Avatars(SIZE, CPU), 2 * BATCH, BATCH) for _ in range(3))
    for step in range(REUSE + 2):
        first, same = one.take(step), other.take(step)
        assert torch.equal(first.images, same.images) and torch.equal(first.focus, same.focus)
    later.load_state_dict(one.state_dict())
    for step in range(REUSE + 2, 2 * REUSE + 2):
        expected, found = one.take(step), later.take(step)
        assert torch.equal(expected.images, found.images)
    assert not torch.equal(found.images, one.take(step + 1).images)


def test_places_follow_the_picture():
    """A bright spot in a dark picture is where its focus says, and a box around it stays around it."""
    count, size = 32, 64
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    focus = (torch.rand(count, 1, 1, 2, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.6
    far = (line - focus[..., 0, None]) ** 2 + ((line - focus[..., 1, None]) ** 2).transpose(2, 3)
    spots = 2 * torch.exp(-far / 0.01) - 1
    boxes = torch.cat((focus[:, :, 0] - 0.1, focus[:, :, 0] + 0.1), dim=-1)
    images = spots[:, :, None].expand(count, 1, 3, size, size)
    shots = vary(Shots(images, (boxes + 1) * (size / 2), None, focus), torch.Generator().manual_seed(1))
    assert shots.images.shape == images.shape and shots.images.abs().max() <= 1
    assert not torch.allclose(shots.focus, focus)
    brightness = shots.images[:, 0].mean(dim=1)
    weight = (brightness - brightness.amin(dim=(1, 2), keepdim=True)) ** 4
    weight = weight / weight.sum(dim=(1, 2), keepdim=True)
    seen = torch.stack(((weight.sum(1) * line).sum(1), (weight.sum(2) * line).sum(1)), dim=-1)
    torch.testing.assert_close(seen, shots.focus[:, 0, 0], atol=0.04, rtol=0)
    middle = (shots.boxes[:, 0, :2] + shots.boxes[:, 0, 2:]) / size - 1
    torch.testing.assert_close(middle, shots.focus[:, 0, 0], atol=1e-4, rtol=0)
    assert (shots.boxes[..., 2:] > shots.boxes[..., :2]).all()


def test_an_unknown_focus_stays_unknown():
    nobody = Shots(torch.zeros(2, 1, 3, SIZE, SIZE), torch.zeros(2, 1, 4), None, None)
    assert vary(nobody, torch.Generator().manual_seed(0)).focus is None
