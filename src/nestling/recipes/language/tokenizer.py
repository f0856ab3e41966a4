"""Tokenizers by name: bytes, or any of transformers."""

from __future__ import annotations

from typing import Any

from nestling.errors import ResourceError

__all__ = ["BYTE", "byte_tokenizer", "load_tokenizer"]

BYTE = "byte"
_BEGIN, _END, _PAD = "<|begin|>", "<|end|>", "<|pad|>"


def byte_tokenizer() -> Any:
    """A fast tokenizer of transformers in which token i < 256 is the byte i; then begin, end and padding.

    Any text, in any language, is its UTF-8 bytes; nothing is unknown. Written by `save_pretrained`, it is found by
    AutoTokenizer as any other.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(_letters())}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([_BEGIN, _END, _PAD])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name: str) -> Any:
    """The tokenizer "byte", or one of transformers: a folder or a name on the hub.

    Raises:
        ResourceError: it cannot be loaded.
    """
    if name == BYTE:
        return byte_tokenizer()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ResourceError(
            f"cannot load the tokenizer {name!r} ({reason}): give 'byte', a folder with a tokenizer, or a hub name "
            "where the hub can be reached"
        ) from error


def _letters() -> list[str]:
    """The letter of each byte in byte-level vocabularies: itself if it can be printed, else a later one."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]
