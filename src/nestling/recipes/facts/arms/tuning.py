"""Arms that take gradient steps on the model: all weights, low-rank ones, with a penalty, with replay."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestling.errors import ResourceError
from nestling.models.nested_lm.calibration_texts import PROSE
from nestling.models.nested_lm.passes import padded
from nestling.recipes.facts.arms.plain import Plain

__all__ = ["EWC", "FineTuning", "Lora", "Replay"]

Example = tuple[list[int], list[int]]


class FineTuning(Plain):
    """AdamW on all weights, on each fact alone until its loss is small: what is done without continual learning."""

    summary: ClassVar[str] = "full fine-tuning, AdamW 5e-5, each fact until its loss is below 0.1, at most 12 steps"
    LR: ClassVar[float] = 5e-5
    GOAL: ClassVar[float] = 0.1
    STEPS: ClassVar[int] = 12

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(self._trainable(copy.deepcopy(model)), tokenizer)
        self.weights = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=self.LR, weight_decay=0.0)

    def teach(self, question: str, answer: str) -> None:
        """Take steps on this fact until it is known."""
        example = self.prompt(question, raw=False), self.wording.answer(answer)
        for _ in range(self.STEPS):
            losses = self._losses([example, *self._beside()])
            if float(losses[0].detach()) < self.GOAL:
                break
            self.optimizer.zero_grad()
            losses.mean().backward()
            self._add_penalty()
            self.optimizer.step()
        self._keep(example)

    def num_bytes(self) -> int:
        """The weights that changed."""
        return sum(each.numel() * each.element_size() for each in self.weights)

    def _trainable(self, model: Any) -> Any:
        return model

    def _beside(self) -> Sequence[Example]:
        """More examples for a step."""
        return ()

    def _add_penalty(self) -> None:
        """Add to the gradients."""

    def _keep(self, example: Example) -> None:
        """After a fact was learned."""

    def _losses(self, examples: Sequence[Example]) -> Tensor:
        """Mean surprise of each answer, [N] nats per token."""
        rows = [prompt + ids[:-1] for prompt, ids in examples]
        logits = self.model(input_ids=padded(rows), use_cache=False).logits
        losses: list[Tensor] = []
        for row, (prompt, ids) in enumerate(examples):
            said = logits[row, len(prompt) - 1 : len(prompt) - 1 + len(ids)].float()
            losses.append(nn.functional.cross_entropy(said, torch.tensor(ids)))
        return torch.stack(losses)


class Lora(FineTuning):
    """The same on low-rank additions to all linear maps, as peft makes them; the pretrained weights stay.

    Source: Hu et al., LoRA, ICLR 2022.
    """

    summary: ClassVar[str] = "LoRA by peft: rank 16 on all linear maps, AdamW 2e-4, else as fine-tuning"
    LR: ClassVar[float] = 2e-4
    RANK: ClassVar[int] = 16

    def _trainable(self, model: Any) -> Any:
        try:
            import peft
        except ImportError as error:
            raise ResourceError("the arm lora needs peft: run `pip install 'nestling[peft]'`") from error
        torch.manual_seed(0)  # peft draws the first factors from the global generator
        options = peft.LoraConfig(
            r=self.RANK, lora_alpha=2 * self.RANK, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        with warnings.catch_warnings():  # peft 0.19 asks transformers 5 by a name that is on its way out
            warnings.simplefilter("ignore", FutureWarning)
            return peft.get_peft_model(model, options).eval()


class Replay(FineTuning):
    """Fine-tuning in which every step also sees facts taught before, drawn at random; their text is stored."""

    summary: ClassVar[str] = "fine-tuning with 3 stored facts replayed in each step"
    COUNT: ClassVar[int] = 3

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self._stored: list[Example] = []
        self._dice = random.Random(0)

    def num_bytes(self) -> int:
        """The weights, and the stored facts at two bytes a token."""
        return super().num_bytes() + sum(2 * (len(prompt) + len(ids)) for prompt, ids in self._stored)

    def _beside(self) -> Sequence[Example]:
        return self._dice.sample(self._stored, min(self.COUNT, len(self._stored)))

    def _keep(self, example: Example) -> None:
        self._stored.append(example)


class EWC(FineTuning):
    """Fine-tuning held back where earlier facts and ordinary prose need the weights.

    gradient += strength F (theta - theta*),   F <- F + g^2 after each fact, theta* <- theta

    F begins with three paragraphs of prose, so that what was pretrained counts too.
    Source: Kirkpatrick et al. 2017; one running F as in online EWC, Schwarz et al. 2018, without its decay.
    """

    summary: ClassVar[str] = "fine-tuning with the penalty of online EWC, strength 1e7"
    STRENGTH: ClassVar[float] = 1e7

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self._fisher = [torch.zeros_like(each) for each in self.weights]
        self._anchor = [torch.zeros_like(each) for each in self.weights]
        for text in PROSE:
            ids = self.wording.raw(text)
            self._keep((ids[:1], ids[1:]))

    def num_bytes(self) -> int:
        """Weights, where they are held, and how strongly."""
        return 3 * super().num_bytes()

    @torch.no_grad()
    def _add_penalty(self) -> None:
        for weight, fisher, anchor in zip(self.weights, self._fisher, self._anchor, strict=True):
            if weight.grad is not None:
                weight.grad.addcmul_(fisher, weight - anchor, value=self.STRENGTH)

    def _keep(self, example: Example) -> None:
        self.optimizer.zero_grad()
        self._losses([example])[0].backward()
        with torch.no_grad():
            for weight, fisher, anchor in zip(self.weights, self._fisher, self._anchor, strict=True):
                if weight.grad is not None:
                    fisher.addcmul_(weight.grad, weight.grad)
                anchor.copy_(weight)
        self.optimizer.zero_grad()
