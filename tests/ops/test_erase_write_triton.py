"""Triton kernels against the token recurrence in float64: outputs and all gradients.

Without a CUDA device the kernels run in Triton's interpreter. It must be switched on before Triton is first imported,
so this file then runs itself once in a fresh process; there, and on a CUDA machine, the tests below are collected.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from nestling.errors import InputError, ShapeError
from nestling.ops.erase_write import erase_write_recurrent
from nestling.ops.erase_write_triton import erase_write_triton
from nestling.ops.triton_dispatch import runs_on_triton, triton_installed, triton_interpreted

NAMES = ("query", "key", "value", "erase", "write", "log_alpha", "state")
CHUNK = 16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 3e-2}

needs_triton = pytest.mark.skipif(not triton_installed(), reason="the optional package triton is not installed")
if DEVICE == "cpu" and not triton_interpreted():
    kernel_test = pytest.mark.skipif(True, reason="runs in the fresh process of test_kernels_in_a_fresh_process")
else:
    kernel_test = needs_triton


@needs_triton
@pytest.mark.skipif(DEVICE == "cuda" or triton_interpreted(), reason="the kernels run in this process")
def test_kernels_in_a_fresh_process() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "not refuses", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "15 passed" in run.stdout, run.stdout[-2000:]


@pytest.fixture(autouse=True)
def _nan_in_empty_tensors():
    """torch.empty is filled with NaN: whatever a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(
    length: int, *, B: int = 1, H: int = 1, K: int = 16, V: int = 16, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform() -> Tensor:
        return torch.rand(B, length, H, generator=generator)

    query, key = (torch.nn.functional.normalize(normal(B, length, H, K), dim=-1).to(dtype) for _ in range(2))
    scalars = [uniform(), uniform(), 0.3 * uniform().log()]
    return [query, key, normal(B, length, H, V).to(dtype), *scalars, 0.3 * normal(B, H, V, K)]


def run(function, inputs: list[Tensor], **options) -> dict[str, Tensor]:
    """Outputs and gradients of a fixed random projection of both outputs, in float64 on the CPU."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    output, final = function(*leaves, **options)
    generator = torch.Generator().manual_seed(7)
    loss = 0.0
    for result in (output, final):
        projection = torch.randn(result.shape, generator=generator).to(result.device)
        loss = loss + (result.to(torch.promote_types(result.dtype, torch.float32)) * projection).sum()
    results = (output, final, *torch.autograd.grad(loss, leaves))
    names = ("output", "final_state", *(f"gradient of {name}" for name in NAMES))
    return {name: result.detach().cpu().double() for name, result in zip(names, results)}


def check(inputs: list[Tensor], *, chunk_size: int = CHUNK) -> dict[str, Tensor]:
    """Relative error in the 2-norm of everything, against the recurrence in float64."""
    got = run(erase_write_triton, [x.to(DEVICE) for x in inputs], chunk_size=chunk_size)
    expected = run(erase_write_recurrent, [x.double() for x in inputs])
    for name, reference in expected.items():
        assert got[name].isfinite().all(), name
        error = (got[name] - reference).norm() / reference.norm().clamp(min=1e-3)
        assert error < TOLERANCE[inputs[0].dtype], f"{name}: relative error {error:.2e}"
    return got


@kernel_test
@pytest.mark.parametrize(
    ("length", "B", "H"), [(1, 1, 2), (CHUNK - 1, 1, 1), (CHUNK, 1, 1), (CHUNK + 1, 2, 1), (2 * CHUNK + 7, 1, 2)]
)
def test_lengths(length: int, B: int, H: int) -> None:
    check(draw(length, B=B, H=H, V=24))


@kernel_test
def test_widths_that_fill_no_tile() -> None:
    check(draw(20, K=40, V=37))


@kernel_test
def test_chunk_of_32() -> None:
    check(draw(39), chunk_size=32)


@kernel_test
def test_bfloat16_with_chunk_of_64() -> None:
    check(draw(70, dtype=torch.bfloat16), chunk_size=64)


@kernel_test
def test_float16() -> None:
    check(draw(18, dtype=torch.float16))


@kernel_test
def test_hostile_decay() -> None:
    inputs = draw(2 * CHUNK + 7)
    forgotten = torch.tensor([0, 3, 4, CHUNK - 1, CHUNK, 2 * CHUNK + 6])
    inputs[5][:, forgotten] = -torch.inf
    inputs[5][:, 7:10] = -1e4
    inputs[5][:, 20:24] = 0.0
    got = check(inputs)
    assert (got["gradient of log_alpha"][:, forgotten] == 0).all()


@kernel_test
def test_one_key_again_and_again() -> None:
    inputs = draw(CHUNK + 1)
    inputs[1][:] = inputs[1][:, :1]
    inputs[3].fill_(1.0)
    inputs[5].fill_(0.0)
    check(inputs)


@kernel_test
def test_erase_none_is_hebbian() -> None:
    inputs = draw(18)
    inputs[3].zero_()
    with torch.no_grad():
        output, final = erase_write_triton(
            *(None if i == 3 else x.to(DEVICE) for i, x in enumerate(inputs)), chunk_size=CHUNK
        )
        expected = erase_write_recurrent(*(x.double() for x in inputs))
    torch.testing.assert_close(output.cpu().double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final.cpu().double(), expected[1], rtol=1e-5, atol=1e-5)


@kernel_test
def test_pieces_are_the_whole_and_runs_repeat() -> None:
    *tokens, state = (x.to(DEVICE) for x in draw(25))
    whole, last = erase_write_triton(*tokens, state, chunk_size=CHUNK)
    again, _ = erase_write_triton(*tokens, state, chunk_size=CHUNK)
    first, middle = erase_write_triton(*(x[:, :9] for x in tokens), state, chunk_size=CHUNK)
    second, end = erase_write_triton(*(x[:, 9:] for x in tokens), middle, chunk_size=CHUNK)
    assert torch.equal(whole, again)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, last, rtol=1e-5, atol=1e-5)


@kernel_test
def test_no_token_gives_the_state_back() -> None:
    inputs = [x.to(DEVICE) for x in draw(0)]
    output, final = erase_write_triton(*inputs)
    assert output.shape == (1, 0, 1, 16)
    assert torch.equal(final, inputs[6])


@kernel_test
def test_every_empty_tensor_starts_as_nan() -> None:
    assert torch.empty(8, device=DEVICE).isnan().all()


def test_refuses_what_the_kernels_cannot_take() -> None:
    with pytest.raises(InputError, match=r"K in 1\.\.256, got 300"):
        erase_write_triton(*draw(2, K=300))
    with pytest.raises(InputError, match="chunk_size: expected at least 1 token, got 0"):
        erase_write_triton(*draw(2), chunk_size=0)
    with pytest.raises(InputError, match=r"query: expected bfloat16, float16 or float32, got torch\.float64"):
        erase_write_triton(*draw(2, dtype=torch.float64))
    inputs = draw(2)
    inputs[4] = inputs[4][:, :1]
    with pytest.raises(ShapeError, match="write: expected"):
        erase_write_triton(*inputs)


@pytest.mark.skipif(triton_interpreted(), reason="the interpreter takes CPU tensors")
def test_refuses_cpu_tensors_and_dispatch_leaves_them() -> None:
    inputs = draw(2)
    with pytest.raises(InputError, match="query: expected a CUDA tensor, got one on cpu"):
        erase_write_triton(*inputs)
    assert not runs_on_triton(inputs[0], inputs[1], inputs[2], inputs[6])
