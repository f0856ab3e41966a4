"""One legend of axis letters, and shape checks whose messages name the argument, the expected and the given shape.

Tensors are described by one letter per axis: a key of one token is [B, H, K], written "BHK".
"""

from __future__ import annotations

from torch import Tensor

from nestling.errors import ShapeError

LEGEND = {
    "B": "batch row",
    "C": "token of a chunk or window",
    "D": "model width",
    "F": "hidden width of a deep memory",
    "H": "head",
    "K": "key width",
    "N": "example",
    "Q": "query token",
    "T": "time in tokens",
    "V": "value width",
}

Sizes = dict[str, int]


def check_shape(name: str, tensor: Tensor, axes: str, sizes: Sizes | None = None) -> Sizes:
    """Check one argument against its axis letters and the sizes known so far.

    Args:
        name: the argument's name for the message.
        tensor: what was given.
        axes: one letter of LEGEND per axis, for example "BHK".
        sizes: letters whose size is already fixed by earlier arguments; a new letter is fixed by this tensor.

    Returns:
        `sizes` together with the letters of this tensor; the input is unchanged.

    Raises:
        ShapeError: wrong number of axes, or a size that differs from the one already known.
    """
    known = {} if sizes is None else sizes
    if not isinstance(tensor, Tensor):
        raise ShapeError(
            f"{name}: expected a tensor {_expected(axes, known)}, got {type(tensor).__name__}: "
            "give one number per entry, for example with torch.full"
        )
    shape = tuple(tensor.shape)
    if len(shape) != len(axes):
        raise ShapeError(f"{name}: expected {len(axes)} axes {_expected(axes, known)}, got shape {list(shape)}")
    for letter, size in zip(axes, shape):
        if known.get(letter, size) != size:
            raise ShapeError(
                f"{name}: expected {_expected(axes, known)}, got {list(shape)}: "
                f"axis {letter} ({LEGEND[letter]}) must be {known[letter]}"
            )
    return {**known, **dict(zip(axes, shape))}


def check_write(state: Tensor, key: Tensor, value: Tensor, **rates: Tensor) -> Sizes:
    """Check one write to a matrix memory.

    Args:
        state: [B, H, V, K].
        key: [B, H, K].
        value: [B, H, V].
        rates: scalars per row and head such as eta and alpha, each [B, H].

    Returns:
        the sizes of B, H, V and K.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    sizes = check_shape("state", state, "BHVK")
    check_shape("key", key, "BHK", sizes)
    check_shape("value", value, "BHV", sizes)
    for name, rate in rates.items():
        check_shape(name, rate, "BH", sizes)
    return sizes


def _expected(axes: str, sizes: Sizes) -> str:
    letters = f"[{', '.join(axes)}]"
    if not any(letter in sizes for letter in axes):
        return letters
    return f"{letters} = [{', '.join(str(sizes.get(letter, letter)) for letter in axes)}]"
