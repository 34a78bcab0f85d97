"""Every GPU kernel against PyTorch's own operations: on a GPU, or in Triton's interpreter where there is none."""

import pytest
import torch
import torch.nn.functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton")

from personalive.accel.ops import reference as operations  # noqa: E402
from personalive.accel.ops.triton import attention, convolution, float8, grn, norms, pointwise, products  # noqa: E402

TYPES = [torch.float16, torch.bfloat16]
DOT_TYPES = TYPES if DEVICE == "cuda" else TYPES[:1]  # the interpreter has no matrix product in bfloat16
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
FLOAT8_TOLERANCE = (
    0.04 if DEVICE == "cuda" else 0.1
)  # the interpreter loses the carry where rounding reaches a power of 2


def draw(*shape: int, dtype: torch.dtype = torch.float16, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) + offset).to(DEVICE, dtype)


def assert_near(actual: torch.Tensor, exact: torch.Tensor) -> None:
    """`exact` is float32, computed from the same rounded inputs."""
    assert actual.shape == exact.shape
    error = (actual.float() - exact).norm() / exact.norm()
    assert error < TOLERANCE[actual.dtype], f"relative error {error:.2e}"


def skip_without_descriptors() -> None:
    if products.TensorDescriptor is None:
        pytest.skip("this Triton has no descriptors")
    if DEVICE == "cuda" and torch.cuda.get_device_capability() < products.TMA_CAPABILITY:
        pytest.skip("this GPU has no TMA")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shift_rows", [None, 3])
@pytest.mark.parametrize(
    ("channels", "height", "width"), [(64, 5, 7), (320, 8, 8), (96, 96, 64), (128, 96, 48)], ids=str
)
def test_group_norm(channels, height, width, shift_rows, silu, dtype):
    x = draw(3, channels, height, width, dtype=dtype, offset=0.5).to(memory_format=torch.channels_last)
    weight, bias = draw(channels, dtype=dtype), draw(channels, dtype=dtype, offset=1)
    shift = None if shift_rows is None else draw(shift_rows, channels, dtype=dtype)
    exact = x.float() if shift is None else x.float() + shift.float()[:, :, None, None]
    exact = F.group_norm(exact, 32, weight.float(), bias.float(), 1e-5)
    actual = norms.group_norm(x, 32, weight, bias, 1e-5, silu=silu, shift=shift)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert_near(actual, F.silu(exact) if silu else exact)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("channels", "height", "width"), [(64, 5, 7), (320, 8, 8), (128, 96, 48), (96, 96, 64)], ids=str
)
def test_group_norm_of_a_sum(channels, height, width, shifted, dtype):
    """Its sums come from where the image was made, whatever its size."""
    x, branch = (
        draw(3, channels, height, width, dtype=dtype, offset=o).to(memory_format=torch.channels_last) for o in (0.5, -2)
    )
    weight, bias, added = (
        draw(channels, dtype=dtype),
        draw(channels, dtype=dtype, offset=1),
        draw(channels, dtype=dtype),
    )
    shift = draw(3, channels, dtype=dtype) if shifted else None
    total, sums = norms.add_bias_sums(x, branch, added)
    assert total.is_contiguous(memory_format=torch.channels_last)
    assert_near(total, x.float() + branch.float() + added.float()[:, None, None])
    wide = total.float()
    torch.testing.assert_close(sums.sum(1)[:, 0], wide.sum((2, 3)), rtol=1e-4, atol=height * width * 1e-4)
    torch.testing.assert_close(sums.sum(1)[:, 1], wide.square().sum((2, 3)), rtol=1e-4, atol=1e-2)
    exact = F.group_norm(
        wide if shift is None else wide + shift.float()[:, :, None, None], 32, weight.float(), bias.float(), 1e-5
    )
    assert_near(norms.group_norm(total, 32, weight, bias, 1e-5, silu=True, shift=shift, sums=sums), F.silu(exact))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("channels", "length"), [(32, 7), (320, 12), (1280, 3)])
def test_layer_norm_with_a_bias_for_each_frame(channels, length, dtype):
    x, weight = draw(6, length, channels, dtype=dtype, offset=2), draw(channels, dtype=dtype)
    for frames in (1, 3):
        bias = draw(frames, channels, dtype=dtype)
        exact = F.layer_norm(x.float(), (channels,), weight.float()) + bias.float().repeat(6 // frames, 1)[:, None]
        assert_near(norms.layer_norm(x, weight, bias if frames > 1 else bias[0], 1e-5), exact)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [None, 1, 2])
def test_add_layer_norm(rows, dtype):
    channels = 96
    x, branch = draw(4, 11, channels, dtype=dtype), draw(4, 11, channels, dtype=dtype, offset=1)
    weight, bias = draw(channels, dtype=dtype), draw(channels, dtype=dtype)
    add = None if rows is None else draw(rows, channels, dtype=dtype)
    total = x.float() + branch.float()
    if add is not None:
        total = total + add.float().repeat_interleave(4 // rows, 0)[:, None]
    actual_total, actual = norms.add_layer_norm(x, branch, weight, bias, 1e-5, add=add)
    assert_near(actual_total, total)
    assert_near(actual, F.layer_norm(actual_total.float(), (channels,), weight.float(), bias.float()))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 9, 2 * 128), (3, 5, 2 * 1280), (7, 2 * 96)], ids=str)
def test_geglu(shape, dtype):
    x = draw(*shape, dtype=dtype)
    value, gate = x.float().chunk(2, -1)
    assert_near(pointwise.geglu(x), value * F.gelu(gate))


@pytest.mark.parametrize("dtype", DOT_TYPES)
@pytest.mark.parametrize("tile", products.TILES.values(), ids=products.TILES)
def test_gated_linear(tile, dtype):
    if tile.use_tma:
        skip_without_descriptors()
    x, weight, bias = draw(2, 75, 192, dtype=dtype), draw(512, 192, dtype=dtype) * 192**-0.5, draw(512, dtype=dtype)
    value, gate = F.linear(x.float(), weight.float(), bias.float()).chunk(2, -1)
    assert_near(products.gated_linear(x, weight, bias, tile), value * F.gelu(gate))
    with pytest.raises(ValueError, match="not a whole number of tiles"):
        products.gated_linear(x[..., :96], weight[:, :96], bias, tile)


@pytest.mark.parametrize("programs", [1, 3])
@pytest.mark.parametrize("name", [name for name, tile in products.TILES.items() if tile.use_tma])
def test_a_program_makes_any_number_of_tiles_of_a_gated_layer(name, programs, monkeypatch):
    skip_without_descriptors()
    monkeypatch.setattr(products, "_programs_at_once", lambda x, tile: programs)
    tile = products.TILES[name]
    rows, width = 2 * tile.rows + 7, 3 * tile.columns
    x, weight, bias = draw(rows, 192), draw(2 * width, 192) * 192**-0.5, draw(2 * width)
    value, gate = F.linear(x.float(), weight.float(), bias.float()).chunk(2, -1)
    actual, exact = products.gated_linear(x, weight, bias, tile), value * F.gelu(gate)
    for first in range(0, rows, tile.rows):
        for start in range(0, width, tile.columns):
            place = slice(first, first + tile.rows), slice(start, start + tile.columns)
            assert_near(actual[place], exact[place])


@pytest.mark.parametrize("dtype", DOT_TYPES)
@pytest.mark.parametrize("tile", products.SUM_TILES.values(), ids=products.SUM_TILES)
def test_linear_add(tile, dtype):
    skip_without_descriptors()
    x, weight, bias = draw(2, 75, 192, dtype=dtype), draw(320, 192, dtype=dtype) * 192**-0.5, draw(320, dtype=dtype)
    other = draw(2, 75, 320, dtype=dtype)
    exact = other.float() + F.linear(x.float(), weight.float(), bias.float())
    assert_near(products.linear_add(x, weight, bias, other, tile), exact)
    with pytest.raises(ValueError, match="not a whole number of steps"):
        products.linear_add(x[..., :96], weight[:, :96], bias, other, tile)


def assert_sums_are_rounded(actual: torch.Tensor, exact: torch.Tensor) -> None:
    """`actual` is worse than `exact` rounded once, but only as much as sums of 64 products in fp16 are."""
    assert actual.dtype == torch.float16 and actual.shape == exact.shape
    error, least = ((each.float() - exact).norm() / exact.norm() for each in (actual, exact.half()))
    assert 1.1 * least < error < 3e-3, f"relative errors {least:.2e} and {error:.2e}"


@pytest.mark.parametrize("tile", products.HALF_SUM_TILES.values(), ids=products.HALF_SUM_TILES)
def test_products_with_sums_in_fp16(tile):
    if tile.use_tma:
        skip_without_descriptors()
    x, weight, bias = draw(2, 75, 192), draw(256, 192) * 192**-0.5, draw(256)
    other = draw(2, 75, 256)
    exact = F.linear(x.float(), weight.float())
    assert_sums_are_rounded(products.linear(x, weight, tile=tile), exact)
    assert_sums_are_rounded(products.linear(x, weight, bias, tile=tile), exact + bias.float())
    assert_near(products.linear_add(x, weight, bias, other, tile), exact + bias.float() + other.float())
    assert_near(products.linear_add(x, weight, None, other, tile), exact + other.float())
    total = other.flatten(0, 1).clone()
    products.add_linear_(total, x.flatten(0, 1), weight, tile)
    assert_near(total, (exact + other.float()).flatten(0, 1))
    value, gate = F.linear(x.float(), weight.float(), bias.float()).chunk(2, -1)
    assert_near(products.gated_linear(x, weight, bias, tile), value * F.gelu(gate))


@pytest.mark.parametrize("tile", convolution.HALF_SUM_TILES.values(), ids=convolution.HALF_SUM_TILES)
@pytest.mark.parametrize(("channels", "outs", "height", "width"), [(96, 40, 11, 18), (64, 128, 8, 8)], ids=str)
def test_convolution_with_sums_in_fp16(channels, outs, height, width, tile):
    if tile.use_tma:
        skip_without_descriptors()
    x = draw(2, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight = (draw(outs, channels, 3, 3) * (9 * channels) ** -0.5).contiguous(memory_format=torch.channels_last)
    actual = convolution.conv_half_sums(x, weight, tile=tile)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert_sums_are_rounded(actual, F.conv2d(x.float(), weight.float(), padding=1))


def test_without_descriptors_these_tiles_are_refused(monkeypatch):
    monkeypatch.setattr(products, "TensorDescriptor", None)
    x, weight, bias = draw(64, 64), draw(128, 64), draw(128)
    with pytest.raises(RuntimeError, match="no descriptors"):
        products.gated_linear(x, weight, bias, products.TILES["TMA, narrow"])
    with pytest.raises(RuntimeError, match="no descriptors"):
        products.linear_add(x, weight, bias, draw(64, 128))


@pytest.mark.parametrize("filled", [1, 264])
@pytest.mark.parametrize("shape", [(2, 256, 96), (3, 64, 64), (2, 49, 64), (1, 64, 80)], ids=str)
def test_grn_mlp_is_as_exact_as_fp32(shape, filled, monkeypatch):
    """With tiles of both widths, and by PyTorch's operations where no tile fits."""
    monkeypatch.setattr(grn, "_FILLED", filled)
    channels, width = shape[-1], 4 * shape[-1]
    x, other = draw(*shape, dtype=torch.float32), draw(*shape, dtype=torch.float32, offset=1)
    fc1, fc2 = (draw(o, i, dtype=torch.float32) * i**-0.5 for o, i in ((width, channels), (channels, width)))
    biases = [draw(size, dtype=torch.float32, offset=0.2) for size in (width, width, channels)]
    arguments = [x, fc1, *biases[:2], fc2, biases[2], other]
    expected = operations.grn_mlp(*(argument.double() for argument in arguments))
    error = (grn.grn_mlp(*arguments).double() - expected).norm() / expected.norm()
    assert error < 1e-6


@pytest.mark.parametrize("scale", [0.1, 1, 4])
def test_gelu_is_as_exact_as_fp32(scale):
    gate = torch.linspace(-6, 6, 4001).to(DEVICE) * scale
    pairs = torch.cat((torch.ones_like(gate)[:, None], gate[:, None]), dim=1)
    exact = F.gelu(gate.double()).float()
    assert torch.allclose(pointwise.geglu(pairs)[:, 0], exact, rtol=2e-7, atol=5e-7)


@pytest.fixture(params=[True, False], ids=["TMA", "pointers"])
def loads(request, monkeypatch):
    """Both ways of loading, as far as this Triton and GPU have them."""
    if request.param:
        skip_without_descriptors()
    for module in (convolution, float8):
        monkeypatch.setattr(module, "has_tma", lambda x: request.param)


def eighths(*shape: int) -> torch.Tensor:
    return draw(*shape).to(torch.float8_e4m3fn)


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize("dtype", DOT_TYPES)
@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize(
    ("channels", "outs", "height", "width"),
    [(64, 128, 8, 8), (32, 64, 5, 7), (96, 40, 11, 18), (320, 320, 16, 16), (128, 128, 24, 40)],
    ids=str,
)
def test_convolution_in_fp8(channels, outs, height, width, summed, dtype):
    x = eighths(2, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight = eighths(outs, channels, 3, 3).contiguous(memory_format=torch.channels_last)
    scale, bias = draw(outs).float().abs() + 0.1, draw(outs, dtype=dtype)
    other = draw(2, outs, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    sums = {"bias": bias, "other": other} if summed else {}
    actual = convolution.conv_float8(x, weight, scale, 0.03, dtype, **sums)
    assert actual.is_contiguous(memory_format=torch.channels_last) and actual.dtype == dtype
    assert_near(actual, operations.conv_float8(x, weight, scale, 0.03, torch.float32, **sums))


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize("dtype", DOT_TYPES)
@pytest.mark.parametrize(("rows", "depth", "width"), [(300, 64, 128), (7, 320, 960), (129, 1280, 72)], ids=str)
def test_linear_layer_in_fp8(rows, depth, width, dtype):
    x, weight, scale = eighths(2, rows, depth), eighths(width, depth), draw(width).float().abs() + 0.1
    actual = float8.linear_float8(x, weight, scale, 0.03, dtype)
    assert actual.dtype == dtype and actual.shape == (2, rows, width)
    assert_near(actual, operations.linear_float8(x, weight, scale, 0.03, torch.float32))


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize(("rows", "depth", "width"), [(300, 64, 128), (7, 320, 1280), (129, 96, 192)], ids=str)
def test_feed_forward_in_fp8(rows, depth, width):
    """The gate, and the two products after it."""
    x, fc1, scale, bias = eighths(rows, depth), eighths(2 * width, depth), draw(2 * width).float() / 50, draw(2 * width)
    gated = float8.gated_linear_float8(x, fc1, scale, bias.float())
    exact = operations.geglu(x.float() @ fc1.float().t() * scale + bias.float())
    assert gated.dtype == torch.float8_e4m3fn
    assert (gated.float() - exact).norm() / exact.norm() < FLOAT8_TOLERANCE
    arguments = gated, eighths(depth, width), draw(depth).float() / 50, *(draw(n, depth) for n in (rows, depth))
    bias, other = draw(depth), draw(rows, depth)
    actual = float8.linears_add_float8(*arguments, bias, other)
    wide = [a if a.dtype == torch.float8_e4m3fn else a.float() for a in (*arguments, bias, other)]
    assert_near(actual, operations.linears_add_float8(*wide))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("channels", "side"), [(64, 5), (128, 96)], ids=["small", "large"])
def test_group_norm_in_fp8(channels, side, dtype):
    x = draw(2, channels, side, side, dtype=dtype, offset=0.5).to(memory_format=torch.channels_last)
    weight, bias, shift = (draw(n, channels, dtype=dtype)[0] for n in (1, 2, 3))
    scale = 0.02  # so that small values are exact, and large ones fit
    actual = norms.group_norm_float8(x, 32, weight, bias, 1e-5, scale, shift=shift[None])
    exact = operations.group_norm(
        x.float(), 32, weight.float(), bias.float(), 1e-5, silu=True, shift=shift[None].float()
    )
    assert actual.dtype == torch.float8_e4m3fn
    assert (actual.float() * scale - exact).norm() / exact.norm() < FLOAT8_TOLERANCE


@pytest.mark.parametrize("dtype", TYPES)
def test_layer_norm_in_fp8(dtype):
    x, branch = draw(2, 5, 320, dtype=dtype), draw(2, 5, 320, dtype=dtype)
    weight, bias = draw(320).float() * 10, draw(320).float()
    total, actual = norms.add_layer_norm(x, branch, weight, bias, 1e-5, dtype=torch.float8_e4m3fn)
    exact = F.layer_norm(total.float(), (320,), weight, bias)
    assert total.dtype == dtype
    for normed in (actual, norms.layer_norm(total, weight, bias, 1e-5, dtype=torch.float8_e4m3fn)):
        assert normed.dtype == torch.float8_e4m3fn
        assert (normed.float() - exact).norm() < FLOAT8_TOLERANCE * exact.norm()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [32, 72, 320])
def test_folded_batch_norm(channels, dtype):
    x = draw(2, channels, 6, 5, dtype=dtype)
    scale, bias = draw(channels, dtype=dtype), draw(channels, dtype=dtype)
    wide = [t.float()[None, :, None, None] for t in (scale, bias)]
    assert_near(pointwise.scale_relu(x, scale, bias), F.relu(x.float() * wide[0] + wide[1]))


@pytest.mark.parametrize("dtype", DOT_TYPES)
@pytest.mark.parametrize(("channels", "length"), [(32, 9), (320, 6), (1280, 3)])
def test_frame_attention(channels, length, dtype):
    batch, frames, heads = 2, 16, 8
    qkv = draw(batch * frames, length, 3 * channels, dtype=dtype)
    # [b, frames, l, 3, heads, width] → three times [b, l, heads, frames, width]
    q, k, v = qkv.float().view(batch, frames, length, 3, heads, -1).permute(3, 0, 2, 4, 1, 5)
    exact = F.scaled_dot_product_attention(q, k, v).permute(0, 3, 1, 2, 4).reshape(batch * frames, length, channels)
    assert_near(attention.frame_attention(qkv, heads, frames), exact)


@pytest.mark.parametrize("dtype", DOT_TYPES)
@pytest.mark.parametrize("rows", [8, 200])
def test_token_attention(rows, dtype):
    query, tokens = draw(3, rows, 16, dtype=dtype), draw(3, 32, 16, dtype=dtype, offset=0.5)
    exact = F.scaled_dot_product_attention(query.float(), tokens.float(), tokens.float(), scale=1.0)
    assert_near(attention.token_attention(query, tokens), exact)


@pytest.mark.parametrize(("length", "bank", "channels"), [(64, 64, 320), (5, 12, 40), (100, 300, 96)])
def test_append_bank(length, bank, channels):
    qkv = draw(6, length, 3 * channels)
    own, known = qkv.chunk(3, dim=-1)[1], draw(2, bank, channels)
    joined = pointwise.append_bank(own, known, 3)
    assert joined.shape == (6, length + bank, channels)
    for image in range(6):
        assert torch.equal(joined[image, :length], own[image])
        assert torch.equal(joined[image, length:], known[image // 3])
