"""The Samba-like hybrid: transformers' Bamba with a sliding window."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation.utils import GenerationMixin
from transformers.masking_utils import create_recurrent_attention_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.bamba.modeling_bamba import (
    BambaDecoderLayer,
    BambaForCausalLM,
    BambaMixer,
    BambaModel,
    BambaPreTrainedModel,
    BambaRMSNorm,
    BambaRotaryEmbedding,
)

from nestling.models.samba.config import SambaConfig

__all__ = ["SambaForCausalLM", "SambaModel"]

_TIME_STEPS = (1e-3, 1e-1)
_BLOCKS = {"sliding_attention": "full_attention", "linear_attention": "linear_attention"}


class _SambaPreTrainedModel(BambaPreTrainedModel):
    """Weights begin as Mamba-2's own do; Bamba begins with far larger time steps."""

    config_class = SambaConfig
    _supports_flash_attn = False  # the window is in the mask, which that kernel does not read

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BambaMixer):
            low, high = (math.log(step) for step in _TIME_STEPS)
            step = torch.exp(low + (high - low) * torch.rand_like(module.dt_bias))
            init.copy_(module.dt_bias, step + torch.log(-torch.expm1(-step)))  # softplus of it is the step


class SambaModel(_SambaPreTrainedModel, BambaModel):
    """Embedding, blocks, norm; see `SambaConfig`."""

    def __init__(self, config: Any) -> None:
        BambaPreTrainedModel.__init__(self, config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            BambaDecoderLayer(config, layer_idx=layer, layer_type=_BLOCKS[kind])
            for layer, kind in enumerate(config.layers_block_type)
        )
        self.final_layernorm = BambaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = BambaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor | None] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Read T tokens; arguments as in transformers' models."""
        if inputs_embeds is None:
            inputs_embeds, input_ids = self.embed_tokens(input_ids), None
        assert inputs_embeds is not None
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache(config=self.config)
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            length = inputs_embeds.shape[1]
            position_ids = torch.arange(seen, seen + length, device=inputs_embeds.device).unsqueeze(0)
        if not isinstance(attention_mask, dict):
            given: dict[str, Any] = {
                "config": self.config,
                "inputs_embeds": inputs_embeds,
                "attention_mask": attention_mask,
                "past_key_values": past_key_values,
                "position_ids": position_ids,
            }
            attention_mask = {
                "sliding_attention": create_sliding_window_causal_mask(**given),
                "linear_attention": create_recurrent_attention_mask(**given),
            }
        return super().forward(
            input_ids=None,
            attention_mask=attention_mask,  # pyright: ignore[reportArgumentType]  Bamba takes masks by kind of block
            position_ids=position_ids,  # pyright: ignore[reportArgumentType]
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,  # pyright: ignore[reportArgumentType]
            use_cache=use_cache,
            **kwargs,
        )


class SambaForCausalLM(_SambaPreTrainedModel, BambaForCausalLM):
    """`SambaModel` with a head for the next token."""

    def __init__(self, config: Any) -> None:
        BambaPreTrainedModel.__init__(self, config)
        GenerationMixin.__init__(self)
        self.model = SambaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.z_loss_coefficient = config.z_loss_coefficient
        self.post_init()
