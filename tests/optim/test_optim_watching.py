"""What watching optimizers gather, and when they forget it."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.optim import DGD
from nestling.optim.layer_inputs import LayerInputs

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def indices(*shape: int) -> Tensor:
    return torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(1))


def gathered(inputs: LayerInputs) -> list[int]:
    return [sum(part.shape[1] for part in watched.gathered) for watched in inputs]


def test_only_samples_whose_gradient_came_back_are_gathered() -> None:
    module = nn.Linear(4, 3).double()
    inputs = LayerInputs(module, module.parameters())
    module(draw(5, 4))
    with torch.no_grad():
        module(draw(6, 4))
    assert gathered(inputs) == [0]
    module(draw(7, 4)).sum().backward()
    module(input=draw(2, 4)).sum().backward()
    assert gathered(inputs) == [9]


def test_a_layer_used_twice_and_a_tied_one_gather_all_their_inputs() -> None:
    first, second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), first, second)
    inputs = LayerInputs(model, model.parameters())
    model(draw(5, 4)).sum().backward()
    assert gathered(inputs) == [15]


def test_an_embedding_tied_to_a_head_leaves_the_head_watched() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens))

    model = Tied()
    optimizer = DGD(model.parameters(), lr=0.1, module=model)
    (watched,) = optimizer.inputs
    assert watched.layer.name == "head"
    model(indices(8)).sin().sum().backward()
    optimizer.step()
    assert model.head.weight.isfinite().all()


def test_checkpointed_layers_count_once() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs = LayerInputs(module, module.parameters())
    x = draw(5, 4).requires_grad_()
    torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).sum().backward()
    assert gathered(inputs) == [5, 5]


def test_copies_and_pickles_are_not_watched_and_hooks_go_with_the_optimizer() -> None:
    module = nn.Linear(4, 3).double()
    optimizer = DGD(module.parameters(), lr=0.1, module=module)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        twin(draw(5, 4)).sum().backward()
    assert gathered(optimizer.inputs) == [0]
    assert len(module._forward_hooks) == 1
    del optimizer
    gc.collect()
    assert len(module._forward_hooks) == 0


def test_zero_grad_and_step_forget_what_was_gathered() -> None:
    module = nn.Linear(4, 3).double()
    optimizer = DGD(module.parameters(), lr=0.1, module=module)
    for forget in (optimizer.zero_grad, optimizer.step):
        module(draw(5, 4)).sum().backward()
        assert gathered(optimizer.inputs) == [5]
        forget()
        assert gathered(optimizer.inputs) == [0]


@pytest.mark.parametrize("bad", [torch.inf, torch.nan, 1e30])
def test_inputs_whose_squares_are_not_finite_skip_the_step(bad: float) -> None:
    module = nn.Linear(4, 3)
    optimizer = DGD(module.parameters(), lr=0.1, module=module)
    x = torch.ones(2, 4)
    x[0, 0] = bad
    (0 * module(x)).nan_to_num().sum().backward()
    module.weight.grad.zero_()
    module.bias.grad.zero_()
    before = module.weight.detach().clone()
    optimizer.step()
    assert optimizer.num_skipped == 1
    assert torch.equal(module.weight, before)


def test_weight_and_bias_in_two_groups_are_refused() -> None:
    module = nn.Linear(4, 3)
    with pytest.raises(InputError, match="weight and bias in one group"):
        DGD([{"params": [module.weight]}, {"params": [module.bias]}], lr=0.1, module=module)


def test_the_explicit_form_has_no_other_target() -> None:
    module = nn.Linear(4, 3)
    with pytest.raises(InputError, match="gradient descent"):
        DGD(module.parameters(), lr=0.1, module=module, form="explicit", target="answer")


def test_a_weight_trained_without_its_bias() -> None:
    module = nn.Linear(4, 3).double()
    bias = module.bias.detach().clone()
    optimizer = DGD([module.weight], lr=0.1, module=module)
    module(draw(5, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(module.bias, bias)


@pytest.mark.slow
def test_compiled_models_are_watched_alike() -> None:
    def run(compiled: bool) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        optimizer = DGD(model.parameters(), lr=0.3, module=model)
        call = torch.compile(model, backend="aot_eager") if compiled else model
        for step in range(4):
            optimizer.zero_grad()
            for half in range(2):
                call(draw(6, 4, seed=2 * step + half)).sin().mean().backward()
            assert gathered(optimizer.inputs) == [12, 12]
            optimizer.step()
        return model[0].weight.detach()

    torch.testing.assert_close(run(True), run(False), **EXACT)
