"""What no context is: keys of ordinary prose and of ordinary questions, counted once for a model."""

from __future__ import annotations

import torch

from nestling.memory.key_gate import KeySums
from nestling.models.nested_lm.calibration_texts import PROSE, asked
from nestling.models.nested_lm.frames import SINK, Frames
from nestling.models.nested_lm.passes import Passes
from nestling.models.nested_lm.taps import Taps
from nestling.models.nested_lm.wording import Wording

__all__ = ["background"]


def background(taps: Taps, wording: Wording, frames: Frames, device: torch.device) -> tuple[KeySums, KeySums]:
    """Sums of early keys of three paragraphs of prose, and of the questions a model is measured on (8 passes)."""
    passes = Passes(taps, device)
    prose = [wording.raw(text) for text in PROSE]
    questions = [wording.ask([{"role": "user", "content": text}]) for _, sentence, text in asked() if not sentence]
    found: list[KeySums] = []
    for rows in (prose, questions):
        sums = KeySums.empty(frames.mean.shape[0])
        for states in passes.together(rows):
            sums = sums.plus(frames.early(states.early[0, SINK:]))
        found.append(sums)
    return found[0], found[1]
