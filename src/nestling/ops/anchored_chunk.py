"""One chunk of a memory without erase, written and read at its own anchor, with its gradients by hand.

The same function as `anchored` computes by autograd; here every product that touches a whole weight is done once and
added in place, and nothing is computed twice. Per map with input x_t, push u_t = -eta_t surprise_t and the coefficients
of `spans` (D = reach, rows t = 1..C, last row C):

    M_t q_t = keep_t M q_t + carry_t S q_t + sum_s (q_t.x_s) D_ts u_s
    M <- keep_C M + carry_C S + sum_s D_Cs u_s x_s^T,   S <- fade S + sum_s leave_s u_s x_s^T
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.ops.activations import Activation
from nestling.ops.spans import Spans

__all__ = ["AnchoredChunk", "Form", "limit_factor"]


class Form(NamedTuple):
    """The elementwise parts of a memory, and its depth; see `Anchoring`."""

    surprise: Callable[[Tensor, Tensor], Tensor]
    activation: Activation
    residual: bool
    limit: float | None
    depth: int


class Tape(NamedTuple):
    """What one map's part of the forward pass leaves for its backward pass, R rows and heads.

    seen:    [R, C, in], its inputs.          query:  [R, C, in], what its read was asked.
    error:   [R, C, out], limited surprises.  factor: [R, C, 1], what the limit left, or None.
    total:   [R, C, out], its sums W x.       back:   [R, C, out], W^T surprise of the map above; None for the last.
    raw:     [R, C, C], query x seen.         found:  per weight [R, C, out], what the first state answers.
    answer:  [R, C, out], what was read.
    """

    seen: Tensor
    query: Tensor
    error: Tensor
    factor: Tensor | None
    total: Tensor
    back: Tensor | None
    raw: Tensor
    found: tuple[Tensor, ...]
    answer: Tensor


class AnchoredChunk(torch.autograd.Function):
    """(form, query, key, value, eta, *spans, *memory, *accumulator) -> (output, *memory, *accumulator).

    query, key, value: [R, C, K]; eta: [R, C, 1]; spans: the five of `Spans`; weights: [R, out, in] each.
    """

    @staticmethod
    def forward(
        ctx: Any, form: Form, query: Tensor, key: Tensor, value: Tensor, eta: Tensor, *rest: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Answers and weights after the chunk."""
        spans, maps = Spans(*rest[:5]), _maps(rest[5:], form.depth)  # pyright: ignore[reportArgumentType]
        seen, totals, output = _through(form, [weights[0] for weights in maps], key)
        errors, backs = _surprises(form, [weights[0] for weights in maps], totals, output, value)
        tapes, asked, after = [], query, []
        for layer, weights in enumerate(maps):
            factor = None if form.limit is None else limit_factor(errors[layer], seen[layer], form.limit)
            error = errors[layer] if factor is None else errors[layer] * factor
            raw, found, answer = _read(asked, seen[layer], -eta * error, weights, spans)
            after.append(_advance(seen[layer], -eta * error, weights, spans))
            tapes.append(
                Tape(seen[layer], asked, error, factor, totals[layer], backs[layer], raw, tuple(found), answer)
            )
            asked = form.activation.function(answer)
        answer = query + tapes[-1].answer if form.residual else tapes[-1].answer
        ctx.form, ctx.with_momentum, ctx.layout = form, spans.carry is not None, len(tapes[0].found)
        ctx.save_for_backward(value, output, eta, *rest, *(part for tape in tapes for part in _flat(tape)))
        return answer, *(weights[0] for weights in after), *(weights[1] for weights in after if len(weights) > 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of everything but the form."""
        form, saved, num_weights = ctx.form, ctx.saved_tensors, ctx.layout
        value, output, eta, *rest = saved[: 8 + form.depth * num_weights]
        spans, maps = Spans(*rest[:5]), _maps(tuple(rest[5:]), form.depth)
        tapes = _tapes(saved[8 + form.depth * num_weights :], form.depth, num_weights)
        grad_after = _maps(grads[1:], form.depth)
        grad_spans = [None if part is None else torch.zeros_like(part) for part in spans]

        # The reads, from the last map to the first.
        grad_seen, grad_push, outers = [], [], []
        grad_answer, grad_query = grads[0], grads[0] if form.residual else None
        for layer in reversed(range(form.depth)):
            tape = tapes[layer]
            back = _read_backward(grad_answer, grad_after[layer], tape, maps[layer], spans, eta, grad_spans)
            grad_asked, own_seen, own_push, scaled = back
            grad_seen.insert(0, own_seen)
            grad_push.insert(0, own_push)
            outers.insert(0, ([scaled[0]], [tape.query], scaled[1:]))
            if layer:
                below = tapes[layer - 1].answer
                (grad_answer,) = _pull(form.activation.function, [below], grad_asked)
            else:
                grad_query = grad_asked if grad_query is None else grad_query + grad_asked

        grad_errors, grad_eta = [], torch.zeros_like(eta)
        for tape, push, seen in zip(tapes, grad_push, grad_seen):
            grad_eta -= _dot(push, tape.error)
            grad_errors.append(_unlimited(-eta * push, tape, seen, form.limit))
        grad_key, grad_value = _factors_backward(form, maps, tapes, (output, value), grad_errors, grad_seen, outers)
        grad_weights = [
            _weights_backward(grad_after[layer], maps[layer], tapes[layer].query, outers[layer], spans, grad_spans)
            for layer in range(form.depth)
        ]
        flat = [weights[i] for i in range(num_weights) for weights in grad_weights]
        return None, grad_query, grad_key, grad_value, grad_eta, *grad_spans, *flat


def limit_factor(surprise: Tensor, seen: Tensor, limit: float) -> Tensor:
    """min(1, limit / (|surprise| |seen|)), [R, C, 1]; sizes are taken out first so that nothing overflows."""
    size = surprise.detach().abs().amax(-1, keepdim=True).clamp(min=1.0)
    norm = (surprise / size).norm(dim=-1, keepdim=True) * seen.norm(dim=-1, keepdim=True)
    return (limit / norm.clamp(min=torch.finfo(norm.dtype).tiny * 1e3) / size).clamp(max=1.0)


def _maps(weights: tuple[Any, ...], depth: int) -> list[list[Tensor]]:
    """Per map its memory and, if there is one, its accumulator."""
    return [list(weights[layer::depth]) for layer in range(depth)]


def _through(form: Form, weights: list[Tensor], key: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Inputs and sums of every map, and the answer, at the anchor."""
    seen, totals = [key], [torch.bmm(key, weights[0].mT)]
    for weight in weights[1:]:
        seen.append(form.activation.function(totals[-1]))
        totals.append(torch.bmm(seen[-1], weight.mT))
    return seen, totals, key + totals[-1] if form.residual else totals[-1]


def _surprises(
    form: Form, weights: list[Tensor], totals: list[Tensor], output: Tensor, value: Tensor
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Surprise of every map before the limit, and what came back from the map above it."""
    errors = [form.surprise(output, value)]
    backs: list[Tensor | None] = [None]
    for weight, total in zip(reversed(weights[1:]), reversed(totals[:-1])):
        back = torch.bmm(errors[-1], weight)
        backs.append(back)
        errors.append(form.activation.derivative(total) * back)
    return errors[::-1], backs[::-1]


def _scales(spans: Spans) -> list[Tensor]:
    """What is left of the first memory and accumulator at each token."""
    return [spans.keep[:, 1:]] if spans.carry is None else [spans.keep[:, 1:], spans.carry[:, 1:]]


def _ends(spans: Spans) -> list[Tensor]:
    """What is left of each write in the memory and the accumulator at the end."""
    last = spans.reach[:, -1, :, None]
    return [last] if spans.leave is None else [last, spans.leave]


def _read(
    query: Tensor, seen: Tensor, push: Tensor, weights: list[Tensor], spans: Spans
) -> tuple[Tensor, list[Tensor], Tensor]:
    raw = torch.bmm(query, seen.mT)
    found = [torch.bmm(query, weight.mT) for weight in weights]
    answer = torch.bmm(raw * spans.reach[:, 1:], push)
    for scale, part in zip(_scales(spans), found):
        answer.addcmul_(scale, part)
    return raw, found, answer


def _advance(seen: Tensor, push: Tensor, weights: list[Tensor], spans: Spans) -> list[Tensor]:
    kept = [torch.bmm(push.mT, seen * end) for end in _ends(spans)]
    kept[0].addcmul_(weights[0], spans.keep[:, -1:])
    if spans.carry is not None and spans.fade is not None:
        kept[0].addcmul_(weights[1], spans.carry[:, -1:])
        kept[1].addcmul_(weights[1], spans.fade)
    return kept


def _read_backward(
    grad: Tensor,
    grad_after: list[Tensor],
    tape: Tape,
    weights: list[Tensor],
    spans: Spans,
    eta: Tensor,
    grad_spans: list[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients of query, seen and push, and the answer's gradient scaled for each weight."""
    push, reach = -eta * tape.error, spans.reach[:, 1:]
    grad_scores = torch.bmm(grad, push.mT)
    grad_reach = grad_scores * tape.raw
    grad_scores *= reach
    grad_push = torch.bmm((tape.raw * reach).mT, grad)
    grad_query, grad_seen = torch.bmm(grad_scores, tape.seen), torch.bmm(grad_scores.mT, tape.query)
    scaled = []
    _add(grad_spans[0], (slice(None), slice(1, None)), grad_reach)
    states = zip(_scales(spans), _ends(spans), weights, grad_after, tape.found)
    for i, (scale, end, weight, after, found) in enumerate(states):
        grad_push.baddbmm_(tape.seen * end, after.mT)
        pulled = torch.bmm(push, after)
        grad_seen.addcmul_(pulled, end)
        grad_end = _dot(pulled, tape.seen)
        if i == 0:
            _add(grad_spans[0], (slice(None), -1), grad_end.squeeze(-1))
        else:
            _add(grad_spans[3], (), grad_end)
        scaled.append(grad * scale)
        grad_query.baddbmm_(scaled[-1], weight)
        _add(grad_spans[1 + i], (slice(None), slice(1, None)), _dot(grad, found))
    return grad_query, grad_seen, grad_push, scaled


def _factors_backward(
    form: Form,
    maps: list[list[Tensor]],
    tapes: list[Tape],
    ends: tuple[Tensor, Tensor],
    grad_errors: list[Tensor],
    grad_seen: list[Tensor],
    outers: list[tuple[list[Tensor], list[Tensor], list[Tensor]]],
) -> tuple[Tensor, Tensor]:
    """Through the surprises and sums at the anchor; adds the memories' outer products. Gradients of key and value."""

    def slope(total: Tensor, back: Tensor) -> Tensor:
        return form.activation.derivative(total) * back

    grad_totals: list[Tensor] = []
    for layer in range(form.depth - 1):
        tape, above = tapes[layer], maps[layer + 1][0]
        assert tape.back is not None
        grad_total, grad_back = _pull(slope, [tape.total, tape.back], grad_errors[layer])
        grad_totals.append(grad_total)
        grad_errors[layer + 1] = torch.baddbmm(grad_errors[layer + 1], grad_back, above.mT)
        outers[layer + 1][0].append(_unbounded_error(form, tapes, layer + 1, ends))
        outers[layer + 1][1].append(grad_back)
    grad_output, grad_value = _pull(form.surprise, list(ends), grad_errors[-1])
    grad_totals.append(grad_output)
    for layer in reversed(range(form.depth)):
        outers[layer][0].append(grad_totals[layer])
        outers[layer][1].append(tapes[layer].seen)
        below = grad_seen[layer].baddbmm_(grad_totals[layer], maps[layer][0])
        if layer:
            (grad_below,) = _pull(form.activation.function, [tapes[layer - 1].total], below)
            grad_totals[layer - 1] = grad_totals[layer - 1] + grad_below
    return grad_seen[0] + grad_output if form.residual else grad_seen[0], grad_value


def _unbounded_error(form: Form, tapes: list[Tape], layer: int, ends: tuple[Tensor, Tensor]) -> Tensor:
    """The surprise of a map before the limit, computed again where the limit changed it."""
    tape = tapes[layer]
    if tape.factor is None:
        return tape.error
    if tape.back is None:
        return form.surprise(*ends)
    return form.activation.derivative(tape.total) * tape.back


def _weights_backward(
    grad_after: list[Tensor],
    weights: list[Tensor],
    query: Tensor,
    outers: tuple[list[Tensor], list[Tensor], list[Tensor]],
    spans: Spans,
    grad_spans: list[Tensor | None],
) -> list[Tensor]:
    left, right, scaled = outers
    last = (slice(None), slice(-1, None))
    _add(grad_spans[1], last, _inner(grad_after[0], weights[0]))
    grad = grad_after[0] * spans.keep[:, -1:]
    grad.baddbmm_(torch.cat(left, dim=1).mT, torch.cat(right, dim=1))
    if spans.carry is None or spans.fade is None:
        return [grad]
    _add(grad_spans[2], last, _inner(grad_after[0], weights[1]))
    _add(grad_spans[4], (), _inner(grad_after[1], weights[1]))
    past = torch.bmm(scaled[0].mT, query)
    past.addcmul_(grad_after[0], spans.carry[:, -1:]).addcmul_(grad_after[1], spans.fade)
    return [grad, past]


def _unlimited(grad: Tensor, tape: Tape, grad_seen: Tensor, limit: float | None) -> Tensor:
    """Back through the limit; the input's share is added to `grad_seen`.

    error = s f, f = min(1, limit / (|s| |x|)): where it bites, ds = f (dy - e (e.dy)) with e = error / |error|, and
    dx = -x (error.dy) / |x|^2.
    """
    if tape.factor is None or limit is None:
        return grad
    bites, smallest = tape.factor < 1, torch.finfo(grad.dtype).tiny
    direction = tape.error / torch.linalg.vector_norm(tape.error, dim=-1, keepdim=True).clamp_(min=smallest)
    size = torch.linalg.vector_norm(tape.seen, dim=-1, keepdim=True).clamp_(min=smallest)
    grad_seen.addcmul_(tape.seen / size, torch.where(bites, _dot(tape.error, grad) / size, 0), value=-1)
    along = torch.where(bites, _dot(direction, grad), 0)
    return tape.factor * torch.addcmul(grad, direction, along, value=-1)


def _pull(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of an elementwise function's inputs."""
    with torch.enable_grad():
        own = [tensor.detach().requires_grad_() for tensor in inputs]
        made = function(*own)
    return torch.autograd.grad(made, own, grad, allow_unused=True, materialize_grads=True)


def _add(total: Tensor | None, place: tuple[Any, ...], part: Tensor) -> None:
    assert total is not None
    total[place] += part


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of the last axis, which stays with size 1."""
    return (left * right).sum(-1, keepdim=True)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """Sum of products of two stacks of matrices, [R, 1, 1]."""
    return torch.bmm(left.flatten(1).unsqueeze(1), right.flatten(1).unsqueeze(2))


def _flat(tape: Tape) -> tuple[Any, ...]:
    return (*tape[:7], *tape.found, tape.answer)


def _tapes(flat: tuple[Any, ...], depth: int, num_weights: int) -> list[Tape]:
    size = 8 + num_weights
    parts = (flat[layer * size : (layer + 1) * size] for layer in range(depth))
    return [Tape(*part[:7], found=part[7:-1], answer=part[-1]) for part in parts]  # pyright: ignore[reportCallIssue]
