"""What the watching optimizers see of each kind of layer, and DGD's truth on what they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nestling.ops.shrink_along import shrink_along
from nestling.optim import DGD
from nestling.optim.layer_inputs import LayerInputs
from nestling.rules import dgd, hebbian

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def indices(*shape: int) -> Tensor:
    return torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(1))


LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(4, 3), draw(2, 5, 4)),
    "linear, no bias": (lambda: nn.Linear(4, 3, bias=False), draw(7, 4)),
    "linear, five axes": (lambda: nn.Linear(4, 3), draw(2, 3, 1, 2, 4)),
    "linear, one sample without a batch": (lambda: nn.Linear(4, 3), draw(4)),
    "linear, wider than the batch": (lambda: nn.Linear(9, 3), draw(2, 9)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2), draw(2, 4, 9)),
    "conv1d, same, circular": (lambda: nn.Conv1d(4, 6, 2, padding="same", padding_mode="circular"), draw(2, 4, 5)),
    "conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), padding=(1, 0), dilation=(1, 2)), draw(2, 2, 5, 6)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), draw(3, 4, 4, 4)),
    "embedding": (lambda: nn.Embedding(6, 3, padding_idx=2), indices(3, 8)),
    "transformers": (lambda: Conv1D(3, 4), draw(2, 5, 4)),
}


def layer(kind: str) -> tuple[Any, Tensor]:
    make, inputs = LAYERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double(), inputs


@pytest.mark.parametrize("kind", list(LAYERS))
def test_eq_8_29_31_the_gradient_is_surprise_times_input(kind: str) -> None:
    """dLoss/dW = sum delta x^T: delta is the gradient at the output, x the gathered key, for every kind of layer."""
    module, x = layer(kind)
    inputs = LayerInputs(module, module.parameters())
    answer = module(x)
    pull = draw(*answer.shape, seed=7)
    answer.backward(pull)
    (watched,) = inputs
    keys, mapped = watched.keys(), watched.layer
    packed = mapped.pack([p.grad for p in mapped.parameters()])
    if kind == "embedding":
        counts = torch.zeros(6, dtype=torch.float64)
        expected = torch.zeros(6, 3, dtype=torch.float64)
        for row, delta in zip(x.flatten().tolist(), pull.flatten(0, 1)):
            if row != 2:
                counts[row] += 1
                expected[row] += delta
        torch.testing.assert_close(keys, counts)
        torch.testing.assert_close(packed[0], expected, **EXACT)
        return
    assert keys is not None
    assert keys.shape[-1] == mapped.key_width
    if kind.startswith("conv"):  # [B, out, places...] to [G, B places, out / G]
        delta = pull.flatten(2).unflatten(1, (mapped.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    else:
        delta = pull.reshape(1, -1, pull.shape[-1])
    torch.testing.assert_close(packed, delta.mT @ keys, **EXACT)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_packing_is_undone_by_unpacking(kind: str) -> None:
    mapped = next(iter(LayerInputs(module := layer(kind)[0], module.parameters()))).layer
    tensors = [p.detach().clone() for p in mapped.parameters()]
    for before, after in zip(tensors, mapped.unpack(mapped.pack(tensors))):
        torch.testing.assert_close(before, after, rtol=0, atol=0)


def minimum(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """An independent solver."""
    point = nn.Parameter(start.detach() + 0.5)
    solver = torch.optim.LBFGS(
        [point], max_iter=300, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = objective(point)
        value.backward()
        return value

    solver.step(closure)
    return point.detach()


@pytest.mark.parametrize(("erase", "target"), [(1.0, "surprise"), (0.3, "surprise"), (1.0, "answer"), (0.3, "answer")])
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if "linear" in kind])
def test_eq_54_56_112_120_implicit_dgd_minimises_its_proximal_objective(kind: str, erase: float, target: Any) -> None:
    """1/2 erase |W X^T|^2 - <W X^T, U^T> + 1/(2 eta) |W - W_t|^2, U by autograd at the output.

    With the target "answer" the erase acts on (W - W_t) X^T; for erase 1 that is 1/2 |W X^T - (W_t X^T + U^T)|^2.
    """
    module, x = layer(kind)
    optimizer = DGD(module.parameters(), lr=0.7, module=module, reduction="sum", erase=erase, target=target)
    answer = module(x)
    answer.retain_grad()
    answer.sin().sum().backward()
    u = -answer.grad.reshape(-1, 3)
    rows = x.reshape(-1, x.shape[-1])
    start = module.weight.detach().clone()
    if module.bias is not None:
        rows = torch.cat([rows, torch.ones(len(rows), 1).double()], dim=1)
        start = torch.cat([start, module.bias.detach()[:, None]], dim=1)
    optimizer.step()

    def objective(w: Tensor) -> Tensor:
        y, erased = rows @ w.T, rows @ (w - start if target == "answer" else w).T
        return 0.5 * erase * erased.square().sum() - (y * u).sum() + (w - start).square().sum() / 1.4

    ours = module.weight.detach()
    if module.bias is not None:
        ours = torch.cat([ours, module.bias.detach()[:, None]], dim=1)
    torch.testing.assert_close(ours, minimum(objective, start), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", ["implicit", "explicit"])
def test_eq_57_121_one_sample_is_the_rule_of_the_memories(form: str) -> None:
    module = nn.Linear(4, 3, bias=False).double()
    x, eta = draw(1, 4), torch.full((1, 1), 0.7, dtype=torch.float64)
    start, one = module.weight.detach().clone(), torch.ones_like(eta)
    optimizer = DGD(module.parameters(), lr=0.7, module=module, form=form)
    answer = module(x)
    answer.retain_grad()
    answer.square().sum().backward()
    optimizer.step()
    u = -answer.grad[None]
    if form == "implicit":
        expected = dgd.step(start[None, None], x[None], u, eta=eta, alpha=one)
    else:
        expected = dgd.step_explicit(start[None, None], x[None], u, eta=eta, alpha=one, gradient=hebbian.gradient)
    torch.testing.assert_close(module.weight.detach(), expected[0, 0], **EXACT)


def test_the_mean_divides_the_erase_by_the_rows() -> None:
    by_mean, by_sum = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    by_sum.load_state_dict(by_mean.state_dict())
    x = draw(10, 4)
    one = DGD(by_mean.parameters(), lr=0.5, module=by_mean, reduction="mean")
    two = DGD(by_sum.parameters(), lr=0.05, module=by_sum, reduction="sum")
    by_mean(x).square().sum(1).mean().backward()
    by_sum(x).square().sum().backward()
    one.step()
    two.step()
    torch.testing.assert_close(by_mean.weight, by_sum.weight, **EXACT)


@pytest.mark.parametrize("options", [{}, {"form": "explicit"}, {"target": "answer"}])
def test_an_embedding_is_a_linear_layer_on_one_hot_keys(options: dict[str, Any]) -> None:
    table, linear = nn.Embedding(6, 3).double(), nn.Linear(6, 3, bias=False).double()
    linear.weight.data.copy_(table.weight.data.T)
    tokens = indices(3, 8)
    one = DGD(table.parameters(), lr=0.5, module=table, **options)
    two = DGD(linear.parameters(), lr=0.5, module=linear, **options)
    table(tokens).sin().mean().backward()
    linear(nn.functional.one_hot(tokens, 6).double()).sin().mean().backward()
    one.step()
    two.step()
    torch.testing.assert_close(table.weight.T, linear.weight, **EXACT)


def test_transformers_layer_steps_as_the_linear_layer_it_is() -> None:
    turned, linear = Conv1D(3, 4).double(), nn.Linear(4, 3).double()
    linear.weight.data.copy_(turned.weight.data.T)
    linear.bias.data.copy_(turned.bias.data)
    for module in (turned, linear):
        optimizer = DGD(module.parameters(), lr=0.5, module=module)
        module(draw(5, 4)).sin().mean().backward()
        optimizer.step()
    torch.testing.assert_close(turned.weight.T, linear.weight, **EXACT)


@pytest.mark.parametrize(("count", "width"), [(1, 5), (3, 5), (5, 5), (9, 5)])
def test_shrink_along_in_either_size_is_the_inverse(count: int, width: int) -> None:
    matrix, rows = draw(2, 3, width), draw(2, count, width, seed=2)
    direct = matrix @ torch.linalg.inv(torch.eye(width).double() + 0.4 * rows.mT @ rows)
    torch.testing.assert_close(shrink_along(matrix, rows, rate=0.4), direct, **EXACT)


@pytest.mark.parametrize("count", [3, 9])
def test_shrink_along_inputs_so_large_that_rounding_hides_the_identity(count: int) -> None:
    rows = (1e12 * torch.ones(count, 5, dtype=torch.float64) * torch.arange(1, count + 1)[:, None]).float()
    answer = shrink_along(torch.ones(2, 5), rows, rate=1.0)
    assert answer.isfinite().all()
    assert answer.abs().max() < 0.1  # all of the matrix lies along the rows
    across = torch.tensor([[1.0, -1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(shrink_along(across, rows, rate=1.0), across, rtol=0, atol=0.1)


def test_no_rate_makes_the_implicit_form_diverge_and_the_explicit_one_does() -> None:
    for form, finite in (("implicit", True), ("explicit", False)):
        module = nn.Linear(4, 3).double()
        optimizer = DGD(module.parameters(), lr=1e3, module=module, form=form)
        for step in range(60):
            optimizer.zero_grad()
            (0 * module(draw(8, 4, seed=step))).sum().backward()
            optimizer.step()
        assert (module.weight.abs().max().item() < 1) == finite


def test_erase_zero_is_gradient_descent() -> None:
    module, other = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    other.load_state_dict(module.state_dict())
    one = DGD(module.parameters(), lr=0.5, module=module, erase=0.0)
    two = torch.optim.SGD(other.parameters(), lr=0.5)
    for part, optimizer in ((module, one), (other, two)):
        part(draw(5, 4)).sin().mean().backward()
        optimizer.step()
    torch.testing.assert_close(module.weight, other.weight, **EXACT)
