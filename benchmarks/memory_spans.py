"""How long the memories of trained language models keep what they have read, head by head.

    python benchmarks/memory_spans.py runs/language_models/models/hope-seed0/training --text FILE

For every head of a Hope (self-modifying memories) or Mamba-2 model the span 1 / mean(-log alpha) in tokens over the
text, and the smallest alpha, which is what one token can leave of a memory. Tokens are bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from nestling.errors import InputError
from nestling.layers import SelfModifyingTitans, self_modifying
from nestling.recipes.language.load import load_model

LogAlphas = dict[str, Tensor]


def read_hope(model: Any, ids: Tensor) -> LogAlphas:
    """log alpha [H, T] of every block with self-modifying memories; the layers are left on their general path."""
    found: dict[str, list[Tensor]] = {}
    original = self_modifying.token_rates

    def listen(*given: Any) -> Any:
        rates = original(*given)
        found[next(reversed(found))].append(rates.log_alpha)
        return rates

    def begin(name: str) -> None:
        found[name] = []

    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, SelfModifyingTitans):
            layer.is_fused = False  # the fused path makes its rates itself
            hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: begin(name)))
    with mock.patch.object(self_modifying, "token_rates", listen), torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts, dim=1) for name, parts in found.items()}


def read_mamba2(model: Any, ids: Tensor) -> LogAlphas:
    """log alpha [H, T] of every block."""
    found: LogAlphas = {}

    def listen(name: str, mixer: Any, mapped: Tensor) -> None:
        step = F.softplus(mapped[0, :, -mixer.num_heads :] + mixer.dt_bias)
        found[name] = (-torch.exp(mixer.A_log) * step).mT

    hooks = [
        part.in_proj.register_forward_hook(lambda _, __, mapped, name=name, part=part: listen(name, part, mapped))
        for name, part in model.named_modules()
        if hasattr(part, "A_log")
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return found


READERS = {"hope": read_hope, "mamba2": read_mamba2}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="+", help="folder of a training")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--from-byte", type=int, default=60_000)
    parser.add_argument("--tokens", type=int, default=2048)
    chosen = parser.parse_args()
    text = chosen.text.read_bytes()[chosen.from_byte : chosen.from_byte + chosen.tokens]
    ids = torch.tensor([list(text)])
    for folder in chosen.model:
        model, _ = load_model(str(folder))
        kind = model.config.model_type
        if kind not in READERS or model.config.vocab_size < 256:
            raise InputError(f"{folder}: expected a Hope or Mamba-2 model of bytes, got {kind}")
        found = READERS[kind](model.eval(), ids)
        if not found:
            raise InputError(f"{folder}: this Hope has no self-modifying memories")
        print(f"{folder}\n\n| | span of every head, tokens | smallest alpha |\n|---|---|---|")
        for name, log_alpha in found.items():
            spans = " ".join(f"{1 / (-row.mean().item()):.1f}" for row in log_alpha)
            lowest = " ".join(f"{row.exp().min().item():.3f}" for row in log_alpha)
            print(f"| {name} | {spans} | {lowest} |")
        print()


if __name__ == "__main__":
    main()
