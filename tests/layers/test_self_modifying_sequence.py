"""What chunks in one autograd function keep, and that they stay finite where rates and tokens are extreme."""

import weakref
from unittest import mock

import pytest
import torch

from nestling.layers import SelfModifyingTitans, self_modifying_sequence

FORWARD = {"matrix": "forward_chunk", "mlp": "forward_mlp_chunk"}
CHUNKS = 6


def layer_of(kind, **options):
    torch.manual_seed(0)
    return SelfModifyingTitans(dim=8, num_heads=2, kind=kind, chunk_size=4, **options)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("kind", list(FORWARD))
def test_chunks_keep_nothing_without_gradients(kind, gradients):
    layer, x = layer_of(kind), torch.randn(1, 4 * CHUNKS, 8)
    forward, seen, alive = getattr(self_modifying_sequence, FORWARD[kind]), [], []

    def watch(*given):
        chunk = forward(*given)
        kept = chunk.kept.products if kind == "matrix" else chunk.made.tokens.vectors
        alive.append(sum(past() is not None for past in seen))
        seen.append(weakref.ref(kept))
        return chunk

    with mock.patch.object(self_modifying_sequence, FORWARD[kind], watch), torch.set_grad_enabled(gradients):
        layer(x)
    assert len(alive) == CHUNKS
    assert alive == list(range(CHUNKS)) if gradients else max(alive) <= 1


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("span_floor", [None, 0.25])
@pytest.mark.parametrize("kind", list(FORWARD))
def test_gradients_are_the_truth_where_heads_wipe_themselves(kind, span_floor, scale):
    """Alpha underflows in float32, tokens are long: finite, and near autograd in float64."""
    found = []
    for dtype, fused in ((torch.float32, True), (torch.float64, False)):
        # Two heads begin with spans of 2 and 16; a quarter of 2 bounds nothing, so the alpha of the first becomes 0.
        layer = layer_of(kind, span=2.0, span_floor=span_floor, output="normed")
        with torch.no_grad():
            layer.rate_bias[:, 1] = -200.0
        assert layer.is_fused
        layer.is_fused = fused
        x = (scale * torch.randn(1, 13, 8, generator=torch.Generator().manual_seed(1))).to(dtype).requires_grad_()
        y, _ = layer.to(dtype)(x)
        y.sin().sum().backward()
        grads = [x.grad, *(parameter.grad for parameter in layer.parameters())]
        found.append([grad.double() for grad in grads if grad is not None])
    assert len(found[0]) == len(found[1]) > 8
    for by_hand, truth in zip(*found):
        assert by_hand.isfinite().all()
        torch.testing.assert_close(by_hand, truth, rtol=0, atol=2e-3 * truth.abs().max().item() + 1e-12)
