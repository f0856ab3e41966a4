"""Hope and its relatives as Hugging Face models."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from nestling.errors import InputError
from nestling.layers.continuum_memory import ContinuumMemory
from nestling.layers.level_mlp import LevelMLP
from nestling.models.hope.block import HopeBlock, make_mixer
from nestling.models.hope.cache import BlockState, HopeCache
from nestling.models.hope.config import HopeConfig
from nestling.models.hope.contexts import Starts, context_starts, ends_in_padding

__all__ = ["HopeForCausalLM", "HopeModel", "HopePreTrainedModel"]


# Maps of mixers that begin as small as all other maps of the model. What a mixer adds would drown the embeddings
# otherwise, and the model would learn far more slowly.
SMALL = ("output.weight", "pairs.weight")


class HopePreTrainedModel(PreTrainedModel):
    """What the Hope models share: how weights begin, and what transformers may do with them."""

    config: HopeConfig
    config_class = HopeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HopeBlock"]  # noqa: RUF012  as transformers has it
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keys_to_ignore_on_load_missing = [r"continuum\.log_gain"]  # noqa: RUF012  a factor of 1 needs no word
    _is_stateful = True

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """As for transformers' own models: custom code counts as loaded where a module has no tensor of its own."""
        del is_custom_code
        super()._initialize_weights(module)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights; mixers begin as they do by themselves, but for SMALL. `init` leaves loaded tensors alone."""
        std = self.config.initializer_range
        if isinstance(module, nn.RMSNorm):
            init.ones_(cast(Tensor, module.weight))
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, LevelMLP):
            for linear in module.maps:
                init.normal_(linear.weight, std=std)
        elif isinstance(module, ContinuumMemory):
            self._init_continuum(module, std)
        elif isinstance(module, HopeBlock):
            self._init_mixer(module)
        elif isinstance(module, HopeForCausalLM):
            init.normal_(module.lm_head.weight, std=std)

    def _init_mixer(self, block: HopeBlock) -> None:
        missing = {
            name: parameter
            for name, parameter in block.mixer.named_parameters()
            if not getattr(parameter, "_is_hf_initialized", False)
        }
        fresh = dict(make_mixer(self.config, block.layer).named_parameters()) if missing else {}
        for name, parameter in missing.items():
            if name.endswith(SMALL):
                init.normal_(parameter, std=self.config.initializer_range)
            else:
                init.copy_(parameter, fresh[name].to(parameter))

    def _init_continuum(self, memory: ContinuumMemory, std: float) -> None:
        if memory.aggregate is not None:
            init.constant_(memory.aggregate, 1 / len(memory.mlps))
        if isinstance(memory.log_gain, Tensor):
            init.zeros_(memory.log_gain)
        if isinstance(memory.targets, Tensor):
            init.normal_(memory.targets, std=std)


class HopeModel(HopePreTrainedModel):
    """Embedding, blocks, norm.

    Source: NL 8.3, eq. 94-97.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(HopeBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HopeCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Read T tokens.

        Args:
            input_ids: [B, T], or inputs_embeds: [B, T, D].
            attention_mask: [B, tokens in the cache + T], 1 for text; padding on the left, or on the right where
                nothing follows.
            position_ids: [B, T]; a 0 begins a new context, as in packed documents. Nothing else is read from them.
            past_key_values: what was read before; it is brought up to date.
            use_cache: whether to return a cache; None is config.use_cache, and no in training.
            output_hidden_states: whether to return the hidden states before every block and after the norm.

        Raises:
            InputError: both or neither of input_ids and inputs_embeds, a cache of another model, text after padding.
            ShapeError: a mask or cache of another shape.
        """
        del kwargs
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("expected either input_ids or inputs_embeds")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, use_cache)
        seen = 0 if cache is None else cache.num_seen
        if cache is not None and cache.closed and attention_mask is None:
            raise InputError("a row of this cache ended in padding and cannot go on: pad on the left")
        batch, length = hidden.shape[:2]
        starts = context_starts(attention_mask, position_ids, batch=batch, length=length, seen=seen)
        before: list[BlockState | None] = (
            [None] * len(self.layers) if cache is None or not cache.blocks else [*cache.blocks]
        )
        after, kept = [], [hidden]
        for block, state in zip(self.layers, before, strict=True):
            hidden, state = self._run(cast(HopeBlock, block), hidden, state, starts)
            after.append(state)
            kept.append(hidden)
        hidden = self.norm(hidden)
        if cache is not None:
            cache.store(after, length)
            cache.closed = ends_in_padding(attention_mask)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*kept[:-1], hidden) if wanted else None,
        )

    def _cache(self, given: HopeCache | None, use_cache: bool | None) -> HopeCache | None:
        if given is not None:
            if not isinstance(given, HopeCache):
                raise InputError(f"past_key_values: expected a HopeCache, got {type(given).__name__}")
            return given
        wanted = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        return HopeCache() if wanted else None

    def _run(
        self, block: HopeBlock, hidden: Tensor, state: BlockState | None, starts: Starts
    ) -> tuple[Tensor, BlockState]:
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(block.__call__, hidden, state, starts)
        return block(hidden, state, starts)


class HopeForCausalLM(HopePreTrainedModel, GenerationMixin):
    """`HopeModel` with a head for the next token."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  as transformers has it

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.model = HopeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: the model makes its own cache."""
        return False

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HopeCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Read T tokens and score the next ones; see `HopeModel.forward`.

        Args:
            labels: [B, T], as input_ids; they are shifted here, -100 is left out. The loss is in nats per token.
            logits_to_keep: only the last so many logits, or those at these places; 0 is all.
            kwargs: num_items_in_batch and the like, for the loss.

        Returns:
            logits [B, T, vocab_size], the loss where there are labels, the cache.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        hidden = outputs.last_hidden_state
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )
