"""The linear recurrence behind Hebbian, delta, gated delta and DGD memories: erase along the key, then write.

    M_t = M_{t-1} (alpha_t I - erase_t k_t k_t^T) + write_t v_t k_t^T,      y_t = M_t q_t

| rule                            | erase         | write                              |
|---------------------------------|---------------|------------------------------------|
| Hebbian (linear attention)      | 0             | eta                                |
| Delta with retention            | eta           | eta                                |
| Gated delta                     | alpha eta     | eta                                |
| DGD explicit on the dot product | eta           | eta                                |
| DGD explicit on L2              | 2 eta         | eta                                |
| DGD implicit on the dot product | alpha eta'    | eta' = eta / (1 + eta |k|^2)       |
| DGD implicit on L2              | 2 alpha eta'  | eta'                               |

Source: NL eq. 64-65, 92-93, 113-121 all have this form; chunks as in section 8 ("chunk-wise form", WY representation).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestling.errors import InputError
from nestling.ops.erase_write_chunked import EraseWriteChunked
from nestling.ops.erase_write_triton import erase_write_triton
from nestling.ops.triton_dispatch import runs_on_triton
from nestling.shapes import check_shape

__all__ = ["erase_write", "erase_write_recurrent", "erase_write_step"]

DEFAULT_CHUNK_SIZE = 64


def erase_write(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    erase: Tensor | None,
    write: Tensor,
    log_alpha: Tensor,
    state: Tensor,
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over T tokens, exactly, a chunk at a time.

    M_t = M_{t-1} (alpha_t I - erase_t k_t k_t^T) + write_t v_t k_t^T,   y_t = M_t q_t

    Cost is linear in T. The backward pass keeps the inputs and one state per chunk and computes the rest again; it
    cannot be differentiated a second time (`erase_write_recurrent` can).

    Args:
        query: [B, T, H, K].
        key: [B, T, H, K], any norm. Stable when erase |k|^2 <= 1 + alpha.
        value: [B, T, H, V].
        erase: [B, T, H], how much of the content along the key is removed; None is 0 and saves the triangular solve.
        write: [B, T, H], weight of the new pair.
        log_alpha: [B, T, H] <= 0, logarithm of the retention; -inf (alpha = 0) is allowed.
        state: [B, H, V, K] float32 or float64, the memory before the first token; its type is that of the arithmetic.
        chunk_size: tokens per chunk, >= 1; changes speed, not the result.

    Returns:
        output [B, T, H, V] in the type of `value`, and the state after the last token. T = 0 gives the state back.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
        InputError: chunk_size below 1, or a state in half precision.

    Reference: `erase_write_recurrent`. On CUDA the Triton kernels are taken where they fit.
    """
    _check(query, key, value, erase, write, log_alpha, state)
    if chunk_size < 1:
        raise InputError(f"chunk_size: expected a number >= 1, got {chunk_size}")
    if runs_on_triton(query, key, value, state):
        return erase_write_triton(query, key, value, erase, write, log_alpha, state, chunk_size=chunk_size)
    return EraseWriteChunked.apply(query, key, value, erase, write, log_alpha, state, chunk_size)


def erase_write_recurrent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    erase: Tensor | None,
    write: Tensor,
    log_alpha: Tensor,
    state: Tensor,
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Tensor, Tensor]:
    """The recurrence token by token in plain torch: the reference of `erase_write`, same arguments.

    `chunk_size` is accepted and has no effect. Any order of derivatives; memory grows with T * V * K.
    """
    _check(query, key, value, erase, write, log_alpha, state)
    del chunk_size
    outputs = []
    for t in range(query.shape[1]):
        output, state = erase_write_step(
            query[:, t],
            key[:, t],
            value[:, t],
            None if erase is None else erase[:, t],
            write[:, t],
            log_alpha[:, t],
            state,
        )
        outputs.append(output)
    return torch.stack(outputs, dim=1) if outputs else value[:, :0], state


def erase_write_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    erase: Tensor | None,
    write: Tensor,
    log_alpha: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token of the recurrence, for generation: time and memory do not depend on the past.

    Args:
        query: [B, H, K].
        key: [B, H, K].
        value: [B, H, V].
        erase: [B, H] or None for 0.
        write: [B, H].
        log_alpha: [B, H] <= 0.
        state: [B, H, V, K] float32 or float64.

    Returns:
        output [B, H, V] in the type of `value`, and the new state; the input is unchanged.
    """
    given, dtype = value.dtype, state.dtype
    key, value, query = (vector.to(dtype).unsqueeze(-1) for vector in (key, value, query))
    pushed = value * write.to(dtype)[..., None, None]
    if erase is not None:
        pushed = torch.addcmul(pushed, state @ key, erase.to(dtype)[..., None, None], value=-1)
    state = torch.addcmul(log_alpha.to(dtype).exp()[..., None, None] * state, pushed, key.mT)
    return (state @ query).squeeze(-1).to(given), state


def _check(
    query: Tensor, key: Tensor, value: Tensor, erase: Tensor | None, write: Tensor, log_alpha: Tensor, state: Tensor
) -> None:
    sizes = check_shape("query", query, "BTHK")
    check_shape("key", key, "BTHK", sizes)
    sizes = check_shape("value", value, "BTHV", sizes)
    for name, rate in (("erase", erase), ("write", write), ("log_alpha", log_alpha)):
        if rate is not None:
            check_shape(name, rate, "BTH", sizes)
    check_shape("state", state, "BHVK", sizes)
    if state.dtype not in (torch.float32, torch.float64):
        raise InputError(f"state: expected float32 or float64, got {state.dtype}: memories are kept in full precision")
