"""Attention to a portrait: in plain PyTorch, and by CUDA C++ on a GPU with wgmma. It is compiled everywhere."""

import functools
import itertools
import locale
import threading

import pytest
import torch
import torch.nn.functional as F

from personalive.accel import autotune, kernels
from personalive.accel.findings import Findings
from personalive.accel.ops import cuda
from personalive.accel.ops.reference import attend_bank

bank_attention = pytest.importorskip("personalive.accel.ops.cuda.bank_attention")

from personalive.accel.ops.cuda import compiler  # noqa: E402

on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != cuda.CAPABILITY,
    reason="needs a GPU of compute capability 9.0",
)
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
HEADS = 8


def draw(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device, dtype)


def exact(qkv: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Frame by frame in fp64."""
    frames = []
    for frame in qkv.double():
        query, key, value = frame.unbind(1)  # [l, heads, width] each
        key, value = torch.cat([key, keys[0].double()]), torch.cat([value, values[0].double()])
        scores = torch.einsum("qhw,khw->hqk", query, key) / query.shape[-1] ** 0.5
        frames.append(torch.einsum("hqk,khw->qhw", scores.softmax(-1), value).flatten(1))
    return torch.stack(frames)


def assert_near(actual: torch.Tensor, expected: torch.Tensor, times: float = 1) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected).norm() / expected.norm()
    assert error < times * TOLERANCE[actual.dtype], f"relative error {error:.2e}"


def inputs(frames: int, length: int, bank: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """As a network gives them: queries, keys and values side by side, with a common part in the values."""
    qkv = draw(frames, length, 3, HEADS, width, dtype=dtype, device="cuda")
    keys, values = (draw(1, bank, HEADS, width, dtype=dtype, device="cuda") for _ in range(2))
    qkv[:, :, 0] *= 2
    qkv[:, :, 2] += 0.3
    return qkv, keys, values + 0.3


def test_plain_attention_is_to_the_own_frame_and_the_portrait():
    qkv, keys, values = draw(3, 12, 3, 2, 8), draw(1, 20, 2, 8), draw(1, 20, 2, 8)
    torch.testing.assert_close(attend_bank(qkv, keys, values).double(), exact(qkv, keys, values), rtol=1e-4, atol=1e-5)


@pytest.fixture
def nvrtc() -> None:
    try:
        compiler.compiled("", {}, "sm_90a")
    except RuntimeError as error:
        pytest.skip(f"NVRTC does not work here: {error}")


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_compiles_without_a_gpu(dtype, monkeypatch):
    loaded = []

    class Loaded:
        def __init__(self, code):
            assert code.startswith(b"\x7fELF")
            self.code = code

        def kernel(self, name, shared=0):
            assert name.encode() in self.code and shared <= 227 * 1024, "a block of Hopper's has 227 KiB at most"
            loaded.append(name)

    monkeypatch.setattr(bank_attention, "Module", Loaded)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    bank_attention.BankAttention(dtype)
    assert loaded == ["pack_keys", "attend"] * len(bank_attention.SHAPES)


@pytest.mark.usefixtures("nvrtc")
def test_text_files_are_read_as_before_after_compiling():
    before = locale.getencoding()
    compiler.compiled("", {}, "sm_90a")
    assert locale.getencoding() == before


@pytest.mark.usefixtures("nvrtc")
def test_what_the_compiler_says_is_passed_on():
    with pytest.raises(RuntimeError, match=r"(?s)does not compile: .*nonsense"):
        compiler.compiled("nonsense", {}, "sm_90a")


@pytest.fixture
def uncompiled(monkeypatch) -> None:
    """Kernels are not made."""
    monkeypatch.setattr(bank_attention, "_compile", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("length", "bank", "portraits", "width", "dtype", "suits"),
    [
        (4096, 4096, 1, 40, torch.float16, True),
        (1024, 4096, 1, 80, torch.float16, True),
        (1024, 4096, 1, 80, torch.bfloat16, False),
        (256, 256, 1, 160, torch.float16, False),
        (4096, 4096, 1, 40, torch.float32, False),
        (4096, 4096, 2, 40, torch.float16, False),
        (4090, 4096, 1, 40, torch.float16, False),
        (4096, 4090, 1, 40, torch.float16, False),
        (4096, 0, 1, 40, torch.float16, False),
    ],
)
def test_only_what_it_can_do_is_asked_of_it(length, bank, portraits, width, dtype, suits):
    qkv = torch.empty(1, length, 3, HEADS, width, dtype=dtype, device="meta")
    keys = torch.empty(portraits, bank, HEADS, width, dtype=dtype, device="meta")
    assert bank_attention.BankAttention(torch.float16).suits(qkv, keys) is suits


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("capability", "milliseconds", "uses_own"), [((9, 0), 1, True), ((9, 0), 9, False), ((8, 9), 1, False)], ids=str
)
def test_it_is_used_where_it_works_and_is_faster(capability, milliseconds, uses_own, monkeypatch):
    """What it is compared with need not be made first; what is used instead is the best of PyTorch's."""
    computed = []

    def attention(name):
        return lambda *arguments: computed.append(name) or F.scaled_dot_product_attention(*arguments)

    def own(_, *arguments):
        computed.append("own")
        return attend_bank(*arguments)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(bank_attention.BankAttention, "__call__", own)
    monkeypatch.setattr(kernels, "prebuilt", attention("at once"))
    times = iter([2, milliseconds])
    monkeypatch.setattr(autotune, "milliseconds", lambda *_: next(times))
    joined = functools.partial(attend_bank, attention=attention("best"))
    attend = kernels._attention_to_bank(torch.device("cuda"), torch.float16, joined, Findings(None))
    qkv, (keys, values) = draw(1, 64, 3, 8, 40).half(), draw(2, 1, 64, 8, 40).half()
    assert attend(qkv, keys, values).shape == (1, 64, 320)
    assert computed[-1] == ("own" if uses_own else "best")
    assert computed.count("best") == (not uses_own)
    attend(draw(1, 65, 3, 8, 40).half(), keys, values)
    assert computed[-1] == "best", "65 tokens are not blocks of 64"


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'cuda'"), RuntimeError("CUDA says no")], ids=repr
)
def test_where_it_does_not_work_the_log_says_so(error, monkeypatch, caplog):
    """On cards of other kinds there is nothing to say."""

    def fails(*_):
        raise error

    monkeypatch.setattr(bank_attention.BankAttention, "__init__", fails)
    for capability, said in (((8, 9), 0), ((9, 0), 1)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, answer=capability: answer)
        attend = kernels._attention_to_bank(torch.device("cuda"), torch.float16, attend_bank, Findings(None))
        assert attend is attend_bank
        assert [str(error) in record.getMessage() for record in caplog.records] == [True] * said


@on_hopper
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", bank_attention.SHAPES)
@pytest.mark.parametrize(("frames", "length", "bank"), [(1, 64, 64), (2, 320, 64), (3, 1024, 4096), (16, 256, 512)])
def test_like_fp64(frames, length, bank, width, dtype):
    arguments = inputs(frames, length, bank, width, dtype)
    assert_near(bank_attention.BankAttention(dtype)(*arguments), exact(*arguments))


@on_hopper
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", bank_attention.SHAPES)
def test_where_scores_grow_by_far_from_block_to_block(width, dtype):
    """The maximum is found late, several times, in the own keys and the portrait's.

    Queries are rounded once more when they are scaled, which is felt where scores are in the hundreds.
    """
    qkv, keys, values = inputs(2, 512, 512, width, dtype)
    qkv[:, :, 1] *= torch.linspace(0.1, 8, 512, device="cuda")[:, None, None]
    keys *= torch.linspace(8, 16, 512, device="cuda")[:, None, None]
    assert_near(bank_attention.BankAttention(dtype)(qkv, keys, values), exact(qkv, keys, values), times=2)


@on_hopper
@pytest.mark.parametrize("width", bank_attention.SHAPES)
@pytest.mark.parametrize("shift", [-300.0, 300.0])
def test_scores_far_from_zero(width, shift):
    """Softmax does not depend on what all scores have in common."""
    qkv, keys, values = inputs(1, 256, 256, width, torch.float16)
    qkv[:, :, 0, :, 0] = shift
    qkv[:, :, 1, :, 0] = keys[..., 0] = width**0.5
    assert_near(bank_attention.BankAttention(torch.float16)(qkv, keys, values), exact(qkv, keys, values))


@on_hopper
def test_a_first_block_that_outweighs_all_others():
    qkv, keys, values = inputs(1, 256, 256, 40, torch.float16)
    qkv[:, :64, 1] *= 8
    assert_near(bank_attention.BankAttention(torch.float16)(qkv, keys, values), exact(qkv, keys, values))


@on_hopper
def test_what_is_not_a_number_stays_in_its_row():
    qkv, keys, values = inputs(1, 256, 256, 40, torch.float16)
    qkv[:, 100, 0] = torch.nan
    out = bank_attention.BankAttention(torch.float16)(qkv, keys, values)
    assert out[:, 100].isnan().all() and not out[:, 101:].isnan().any() and not out[:, :100].isnan().any()


@on_hopper
def test_parts_of_a_window_and_of_other_tensors():
    """Queries, keys and values as views that are not dense, as when some frames go first."""
    whole, keys, values = inputs(4, 256, 256, 40, torch.float16)
    attend = bank_attention.BankAttention(torch.float16)
    parts = torch.cat([attend(part, keys, values) for part in whole.split(2)])
    assert torch.equal(parts, attend(whole, keys, values))
    wide = torch.cat([whole, whole.flip(0)], dim=-1)
    assert torch.equal(attend(wide[..., :40], keys, values), parts)


@on_hopper
def test_a_thread_that_has_not_used_the_gpu():
    arguments = inputs(2, 256, 256, 40, torch.float16)
    attend, results = bank_attention.BankAttention(torch.float16), []
    expected = attend(*arguments)
    thread = threading.Thread(target=lambda: results.append(attend(*arguments)))
    thread.start()
    thread.join()
    assert torch.equal(results[0], expected)


@on_hopper
def test_in_a_graph():
    arguments = inputs(2, 256, 256, 40, torch.float16)
    attend = bank_attention.BankAttention(torch.float16)
    attend(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(*arguments)
    for argument, by in itertools.product(arguments[:1], (1.5, 0.5)):
        argument.mul_(by)
        graph.replay()
        assert_near(out, exact(*arguments))
