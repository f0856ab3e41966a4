"""Configuration of the Samba-like hybrid."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from nestling.errors import InputError
from nestling.models.auto import make_models_known

__all__ = ["SambaConfig"]


@strict
class SambaConfig(PreTrainedConfig):
    """Blocks of Mamba-2 and of sliding-window attention in turn, each followed by a gated MLP.

    transformers has no such model: its Bamba has these blocks with attention over everything, so this is Bamba with
    another mask and a cache that keeps the window alone. (It is no subclass of Bamba's configuration, which cannot be
    imported while transformers' tables are being filled.)

    Source: Samba (arXiv 2406.07522), with Mamba-2 (arXiv 2405.21060) in place of Mamba.

    Args:
        sliding_window: tokens that a query sees, its own included, >= 1.
        attn_layer_indices: blocks with attention; None is every second one.
        mamba_n_heads, mamba_d_head: heads of Mamba-2 and their width; None is heads of 64. Their product is
            mamba_expand * hidden_size.
        mamba_d_state: width of the states.   mamba_d_conv: of the convolution.   mamba_n_groups: of keys and queries.
        others: as in transformers' `BambaConfig` and `LlamaConfig`.

    Raises:
        InputError: a window below 1, or heads that do not fit.
    """

    model_type = "samba"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  as transformers has it

    vocab_size: int = 32000
    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    sliding_window: int = 2048
    attn_layer_indices: list[int] | None = None
    mamba_n_heads: int | None = None
    mamba_d_head: int | None = None
    mamba_n_groups: int = 1
    mamba_d_state: int = 128
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_chunk_size: int = 64
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    time_step_limit: list[float] | tuple[float, ...] = (0.0, float("inf"))
    hidden_act: str = "silu"
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    num_logits_to_keep: int = 1
    max_position_embeddings: int = 1 << 20
    attention_dropout: float = 0.0
    attention_bias: bool = False
    mlp_bias: bool = False
    z_loss_coefficient: float = 0.0
    rope_parameters: dict[str, Any] | None = None
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in sizes, check them."""
        if self.sliding_window < 1:
            raise InputError(f"sliding_window: expected a number >= 1, got {self.sliding_window}")
        if self.attn_layer_indices is None:
            self.attn_layer_indices = list(range(1, self.num_hidden_layers, 2))
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        inner = self.mamba_expand * self.hidden_size
        if self.mamba_d_head is None:
            self.mamba_d_head = 64 if self.mamba_n_heads is None else inner // self.mamba_n_heads
        if self.mamba_n_heads is None:
            self.mamba_n_heads = inner // self.mamba_d_head
        if self.mamba_n_heads * self.mamba_d_head != inner:
            raise InputError(
                f"expected mamba_n_heads * mamba_d_head to be mamba_expand * hidden_size = {inner}, got "
                f"{self.mamba_n_heads} * {self.mamba_d_head}"
            )
        self.time_step_limit = tuple(self.time_step_limit)
        super().__post_init__(**kwargs)
        make_models_known()

    @property
    def layers_block_type(self) -> list[str]:
        """What mixes the tokens of every block, as transformers names it."""
        with_attention = self.attn_layer_indices or []
        return [
            "sliding_attention" if layer in with_attention else "linear_attention"
            for layer in range(self.num_hidden_layers)
        ]

    @property
    def layer_types(self) -> list[str]:
        """The same under the name that caches look for."""
        return self.layers_block_type
