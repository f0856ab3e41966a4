"""One suite over every row of the table of rules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import nestling.rules
from nestling.errors import ShapeError, UnknownNameError
from nestling.rules import RULES, Rule, rule_named

EVERY_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
WIDTH = 5


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state:
            yield from tensors(part)


def select(state: Any, rows: Tensor) -> Any:
    """The given batch rows of any state."""
    if isinstance(state, Tensor):
        return state[rows]
    parts = [select(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def written(rule: Rule, x: SimpleNamespace, *, steps: int = 4) -> Any:
    """A state after a few writes of changing pairs with a small eta."""
    batch, heads = x.eta.shape
    state = rule.initial(batch, heads, WIDTH, WIDTH, dtype=x.key.dtype)
    for t in range(steps):
        key, value = x.key.roll(t, -1), x.target.roll(-t, -1)
        state = rule.write(state, key, value, eta=0.05 * x.eta, alpha=x.alpha)
    return state


@EVERY_RULE
def test_write_leaves_its_input_unchanged(rule: Rule, draw: Callable[..., SimpleNamespace]) -> None:
    x = draw(0)
    state = written(rule, x)
    before = [part.clone() for part in tensors(state)]
    rule.write(state, x.key, x.target, eta=x.eta, alpha=x.alpha)
    assert all(torch.equal(part, old) for part, old in zip(tensors(state), before))


@EVERY_RULE
def test_a_write_changes_the_answer_to_its_key(rule: Rule, draw: Callable[..., SimpleNamespace]) -> None:
    x = draw(1)
    state = written(rule, x)
    after = rule.write(state, x.key, x.target, eta=0.05 * x.eta, alpha=x.alpha)
    assert not torch.allclose(rule.read(state, x.key), rule.read(after, x.key))


@EVERY_RULE
def test_repeated_writes_bring_the_answer_closer_to_the_value(rule: Rule, draw: Callable[..., SimpleNamespace]) -> None:
    """Every rule is a memory: after some writes of one pair the answer points to where the rule aims."""
    x = draw(2)
    key = torch.nn.functional.normalize(x.key, dim=-1)
    value = torch.nn.functional.normalize(x.target, dim=-1)
    rates = {"eta": torch.full_like(x.eta, 0.1), "alpha": torch.ones_like(x.alpha)}
    state = rule.initial(2, 3, WIDTH, WIDTH, dtype=torch.float64)
    for _ in range(40):
        state = rule.write(state, key, value, **rates)
    # explicit DGD erases what the MLP adds while the gradient writes it: the two meet at y = (k + v) / 2
    aim = key + value if rule.name == "deep_dgd" else value
    similarity = torch.nn.functional.cosine_similarity(rule.read(state, key), aim, dim=-1)
    assert similarity.min() > 0.5


@EVERY_RULE
def test_rows_never_see_each_other(rule: Rule, draw: Callable[..., SimpleNamespace]) -> None:
    """A hostile second row changes nothing in the first, bit for bit."""
    x, y = draw(3), draw(3)
    for name in ("key", "target", "query"):
        getattr(y, name)[1] = 1e6
    first = torch.tensor([0])
    ours, other = written(rule, x), written(rule, y)
    for part, changed in zip(tensors(select(ours, first)), tensors(select(other, first))):
        assert torch.equal(part, changed)
    assert torch.equal(rule.read(ours, x.query)[0], rule.read(other, y.query)[0])


@EVERY_RULE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_of_the_numbers_is_kept(rule: Rule, dtype: torch.dtype, draw: Callable[..., SimpleNamespace]) -> None:
    x = draw(4, dtype=dtype)
    state = written(rule, x)
    assert {part.dtype for part in tensors(state)} == {dtype}
    assert rule.read(state, x.query).dtype == dtype


FLOAT32_TOLERANCE = 2e-5


@EVERY_RULE
def test_float32_follows_float64(rule: Rule, draw: Callable[..., SimpleNamespace]) -> None:
    x = draw(5)
    y = SimpleNamespace(**{name: part.float() for name, part in vars(x).items() if isinstance(part, Tensor)})
    exact = rule.read(written(rule, x), x.query)
    rounded = rule.read(written(rule, y), y.query)
    # recursive least squares starts from P = I / ridge = 100 I, so its rounding is larger by that factor
    factor = 100 if rule.name == "least_squares" else 1
    assert (rounded - exact).abs().max() < factor * FLOAT32_TOLERANCE * exact.abs().max()


@EVERY_RULE
def test_gradients_flow_through_a_write(rule: Rule, draw: Callable[..., SimpleNamespace]) -> None:
    """Backpropagation through the inner update: key and value of an earlier token receive a gradient, as finite
    differences have it."""
    x = draw(6, batch=1, heads=1)

    def answer(key: Tensor, value: Tensor) -> Tensor:
        state = rule.initial(1, 1, WIDTH, WIDTH, dtype=torch.float64)
        state = rule.write(state, key, value, eta=x.eta, alpha=x.alpha)
        state = rule.write(state, key.roll(1, -1), value, eta=x.eta, alpha=x.alpha)
        return rule.read(state, x.query)

    key, value = x.key.clone().requires_grad_(), x.target.clone().requires_grad_()
    assert torch.autograd.gradcheck(answer, (key, value), atol=1e-6)


@EVERY_RULE
@pytest.mark.parametrize("wrong", ["key", "value", "eta", "alpha"])
def test_a_wrong_shape_is_named(rule: Rule, wrong: str, draw: Callable[..., SimpleNamespace]) -> None:
    x = draw(7)
    arguments = {"key": x.key, "value": x.target, "eta": x.eta, "alpha": x.alpha}
    arguments[wrong] = arguments[wrong][:, :2]
    state = rule.initial(2, 3, WIDTH, WIDTH, dtype=torch.float64)
    key, value = arguments.pop("key"), arguments.pop("value")
    with pytest.raises(ShapeError, match=rf"{wrong}: expected .*, got \[2, 2"):
        rule.write(state, key, value, **arguments)


@EVERY_RULE
def test_a_wrong_query_is_named(rule: Rule, draw: Callable[..., SimpleNamespace]) -> None:
    x = draw(8)
    with pytest.raises(ShapeError, match=r"query: expected \[B, H, K\] = \[2, 3, 5\], got \[2, 3, 4\]"):
        rule.read(written(rule, x), x.query[..., :4])


@EVERY_RULE
def test_a_gradient_by_hand_is_autograd(rule: Rule, draw: Callable[..., SimpleNamespace]) -> None:
    """Every row that has a gradient of a matrix or of weights; windowed and deep ones are in the truth tests too."""
    x = draw(9)
    if rule.gradient is None:
        assert rule.name in {"momentum", "dgd", "dgd_explicit", "least_squares", "deep_momentum", "deep_dgd"} or (
            rule.state_kind == "pairs"
        )
        return
    state, key, value, options = x.state, x.key, x.value, {}
    if rule.state_kind == "matrix and window":
        key, value, options = x.keys, x.values, {"gamma": x.gamma}
    if rule.state_kind == "MLP":
        state, value = x.weights, x.target
    leaves = [part.clone().requires_grad_() for part in tensors(state)]
    given = leaves[0] if isinstance(state, Tensor) else tuple(leaves)
    total = rule.objective(given, key, value, **options)
    assert total.shape == (2, 3)
    for ours, truth in zip(
        tensors(rule.gradient(state, key, value, **options)), torch.autograd.grad(total.sum(), leaves)
    ):
        assert (ours - truth).abs().max() < 1e-10


@EVERY_RULE
def test_the_row_tells_the_truth_about_its_file(rule: Rule) -> None:
    folder = Path(nestling.rules.__file__).parent
    assert (folder / rule.file).is_file()
    step_module = importlib.import_module(rule.step.__module__)
    assert step_module.__file__ == str(folder / rule.file)
    for text in (rule.title, rule.objective_text, rule.update_text, rule.equations, rule.model):
        assert text.strip()


@EVERY_RULE
def test_the_fast_twin_exists(rule: Rule) -> None:
    if rule.fast_twin is not None:
        module, _, name = rule.fast_twin.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_names_are_keys() -> None:
    assert all(name == rule.name for name, rule in RULES.items())
    assert rule_named("delta") is RULES["delta"]


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'hebbian'"):
        rule_named("hebian")


def test_the_docs_page_is_current() -> None:
    from nestling.rules.page import page

    path = Path(__file__).parents[2] / "docs" / "rules.md"
    assert path.read_text() == page(), "run `python -m nestling.rules > docs/rules.md`"


def test_the_docs_page_holds_every_rule() -> None:
    from nestling.rules.page import page

    text = page()
    for rule in RULES.values():
        assert rule.objective_text in text
        assert f"`rules/{rule.file}`" in text
