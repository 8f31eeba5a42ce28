"""Motion generator: GPT-2 over motion tokens, conditioned on an emotion and its intensity (paper: appendix D).

Layout: [BOS][EMOTION][INTENSITY] m_1 … m_n [EOS]; [NULL][NULL] where the label is unknown or dropped.
Training corrupts its input tokens (T2M-GPT), which lessens exposure bias, and drops the label with a small
chance, which permits classifier-free guidance l = (1 + γ) l_cond − γ l_null. B batch, n tokens, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from xnemo.config import Strict
from xnemo.errors import XNeMoError

MEAD_EMOTIONS = ("neutral", "angry", "contempt", "disgusted", "fear", "happy", "sad", "surprised")
LEAD = 3  # BOS, emotion, intensity
UNKNOWN = -1  # label of a clip without one
TOP_P = 0.99  # 0.95 of each of several tokens a step trims rare poses: twice the Fréchet distance of plain sampling


class GeneratorConfig(Strict):
    """Shape, corruption and context of the generator."""

    codes: int = 4096
    groups: int = 1  # tokens per time step of the tokenizer; contexts begin at a time step
    layers: int = 12
    width: int = 768
    heads: int = 12
    positions: int = 1024
    emotions: tuple[str, ...] = MEAD_EMOTIONS
    intensities: int = 3
    max_tokens: int = 256  # longest training crop, and longest context when sampling
    context_tokens: int = 224  # kept when the context is full and slides on
    keep: float = 0.5  # chance that an input token stays; the others become random codes
    null: float = 0.1  # chance that a label is dropped in training
    dropout: float = 0.1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_tokens + LEAD + 1 > self.positions:
            raise ValueError(f"positions ({self.positions}) must hold max_tokens + {LEAD + 1}")
        if not 0 < self.context_tokens < self.max_tokens:
            raise ValueError("context_tokens must lie between 1 and max_tokens - 1")
        if self.context_tokens % self.groups or self.max_tokens % self.groups:
            raise ValueError("context_tokens and max_tokens must be multiples of groups")
        return self

    @classmethod
    def paper(cls) -> Self:
        """GPT-2 small with the tokenizer's vocabulary (≈ 89 M parameters)."""
        return cls()

    @classmethod
    def small(cls) -> Self:
        """Trains in seconds on two CPU cores."""
        return cls(
            codes=64, groups=4, layers=3, width=128, heads=4, positions=64, max_tokens=32, context_tokens=24, keep=0.9
        )

    # Ids after the codes 0 … K - 1.
    @property
    def bos(self) -> int:
        return self.codes

    @property
    def eos(self) -> int:
        return self.codes + 1

    @property
    def pad(self) -> int:
        return self.codes + 2

    @property
    def null_label(self) -> int:
        return self.codes + 3

    @property
    def vocabulary(self) -> int:
        return self.codes + 4 + len(self.emotions) + self.intensities

    def emotion_token(self, emotion: int) -> int:
        """Index into `emotions`, or UNKNOWN."""
        return self.null_label if emotion == UNKNOWN else self.codes + 4 + emotion

    def intensity_token(self, intensity: int) -> int:
        """Level 1 … `intensities`, or UNKNOWN."""
        return self.null_label if intensity == UNKNOWN else self.codes + 3 + len(self.emotions) + intensity

    def label(self, emotion: str | None, intensity: int | None) -> tuple[int, int]:
        """Names as users write them → (emotion index, level), UNKNOWN for None. XNeMoError for others."""
        if emotion is not None and emotion not in self.emotions:
            raise XNeMoError(f"emotion {emotion!r} is unknown: choose one of {', '.join(self.emotions)}")
        if intensity is not None and not 1 <= intensity <= self.intensities:
            raise XNeMoError(f"intensity must lie between 1 and {self.intensities}, not {intensity}")
        return (
            UNKNOWN if emotion is None else self.emotions.index(emotion),
            UNKNOWN if intensity is None else intensity,
        )


@dataclass(frozen=True)
class TokenBatch:
    """Crops of token sequences: ids long [B,n] (padded), lengths [B], ends [B] bool (the crop ends its clip),
    emotions [B] (index or UNKNOWN), intensities [B] (level or UNKNOWN)."""

    ids: Tensor
    lengths: Tensor
    ends: Tensor
    emotions: Tensor
    intensities: Tensor


class Uniform(Protocol):
    """Randomness keyed by sample: `uniform(name, *shape)` gives [B,*shape] in [0,1)."""

    def uniform(self, name: str, *shape: int) -> Tensor: ...


class MotionGenerator(nn.Module):
    """Next-token model of motion."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        self.config = config
        self.belongs_to = ""  # digest of the tokenizer whose codes it was trained on
        self.digest = ""  # of its own weights as last saved or loaded
        self.gpt = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocabulary,
                n_positions=config.positions,
                n_embd=config.width,
                n_layer=config.layers,
                n_head=config.heads,
                resid_pdrop=config.dropout,
                embd_pdrop=config.dropout,
                attn_pdrop=config.dropout,
                activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one kernel
                bos_token_id=config.bos,
                eos_token_id=config.eos,
                pad_token_id=None,  # masked here: transformers would look for it in every input
            )
        )

    def losses(self, batch: TokenBatch, draw: Uniform | None = None) -> dict[str, Tensor]:
        """{"loss": mean cross-entropy over codes and true ends, "accuracy" of the next code}.

        Without `draw` nothing is corrupted or dropped (validation).
        """
        config, n = self.config, batch.ids.shape[1]
        place = torch.arange(n + 1, device=batch.ids.device)[None]
        lengths = batch.lengths[:, None]
        targets = F.pad(batch.ids, (0, 1)).masked_fill(place >= lengths, -100)
        targets = targets.masked_fill((place == lengths) & batch.ends[:, None], config.eos)
        lead, codes = self._lead(batch.emotions.tolist(), batch.intensities.tolist()), batch.ids
        if draw is not None:
            dropped = draw.uniform("null") < config.null
            lead[dropped, 1:] = config.null_label
            corrupted = draw.uniform("keep", n) >= config.keep
            codes = torch.where(corrupted, (draw.uniform("code", n) * config.codes).long(), codes)
        codes = codes.masked_fill(place[:, :n] >= lengths, config.pad)
        seen = F.pad((place[:, :n] < lengths).long(), (LEAD, 0), value=1)
        logits = self.gpt(torch.cat([lead, codes], dim=1), attention_mask=seen).logits[:, LEAD - 1 :]
        loss = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100)
        valid = targets != -100
        accuracy = ((logits.argmax(-1) == targets) & valid).sum() / valid.sum().clamp_min(1)
        return {"loss": loss, "accuracy": accuracy}

    def _lead(self, emotions: Sequence[int], intensities: Sequence[int]) -> Tensor:
        c = self.config
        rows = [[c.bos, c.emotion_token(e), c.intensity_token(i)] for e, i in zip(emotions, intensities, strict=True)]
        return torch.tensor(rows, device=self.gpt.device)

    def generate(
        self, length: int, *, prefix: Tensor | None = None, batch: int = 1, seed: int = 0, **options: Any
    ) -> Tensor:
        """`length` new code ids after `prefix` [B,n] (or after nothing, for `batch` rows): [B,length].

        Row i draws with seed + i, whatever the batch. Options: see `stream`.
        """
        steps = self.stream(prefix=prefix, batch=batch, seed=seed, **options)
        rows = [next(steps) for _ in range(length)]
        return torch.stack(rows, dim=1) if rows else torch.empty(batch, 0, dtype=torch.long)

    @torch.no_grad()
    def stream(
        self,
        *,
        prefix: Tensor | None = None,
        batch: int = 1,
        seed: int = 0,
        emotion: str | None = None,
        intensity: int | None = None,
        temperature: float = 1.0,
        top_p: float = TOP_P,
        guidance: float = 1.0,
        cache: bool = True,
    ) -> Iterator[Tensor]:
        """Code ids [B], one time after another, without end: EOS and the labels are never sampled.

        The context is the last `context_tokens` up to `max_tokens` - 1 tokens: time and memory per token are flat.
        guidance: γ, used where an emotion is given. cache=False recomputes every context (same result, slow).
        """
        _check_sampling(temperature, top_p, guidance)
        label = self.config.label(emotion, intensity)
        history = torch.empty(batch, 0, dtype=torch.long) if prefix is None else prefix.cpu()
        self._check_prefix(history)
        rows = len(history)
        generators = [torch.Generator().manual_seed((seed + row) % (1 << 63)) for row in range(rows)]
        guided = guidance > 0 and label != (UNKNOWN, UNKNOWN)
        lead = self._lead([label[0]] * rows, [label[1]] * rows)
        if guided:
            lead = torch.cat([lead, self._lead([UNKNOWN] * rows, [UNKNOWN] * rows)])
        history = history[:, -self.config.context_tokens :]
        context = _Context(self, lead, cache)
        while True:
            logits = context.next_logits(history.repeat(2 if guided else 1, 1))[:, : self.config.codes]
            if guided:
                logits = (1 + guidance) * logits[:rows] - guidance * logits[rows:]
            draws = torch.stack([torch.rand((), generator=g) for g in generators])
            ids = pick(logits.float().cpu() / temperature, top_p, draws)
            yield ids
            history = torch.cat([history, ids[:, None]], dim=1)
            if history.shape[1] >= self.config.max_tokens:
                history = history[:, self._slide(history.shape[1]) :]
                context = _Context(self, lead, cache)

    def _slide(self, n: int) -> int:
        """Where a context of at most `context_tokens` of n tokens begins: at a time step."""
        surplus, groups = n - self.config.context_tokens, self.config.groups
        return -(-surplus // groups) * groups

    def _check_prefix(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.shape[1] % self.config.groups or ids.dtype != torch.long:
            raise XNeMoError(f"a token prefix must be long [B,n], n a multiple of {self.config.groups}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.codes:
            raise XNeMoError(
                f"a token prefix must hold ids below {self.config.codes}: "
                "use the tokenizer this generator was trained with"
            )


class _Context:
    """Logits after a growing sequence: with the key-value cache only what is new is computed."""

    def __init__(self, model: MotionGenerator, lead: Tensor, cache: bool) -> None:
        self.gpt, self.lead, self.cache = model.gpt, lead, cache
        self.past: Any = None
        self.seen = 0

    def next_logits(self, ids: Tensor) -> Tensor:
        """ids [B,n] (all so far) → logits [B,V] of the next token."""
        ids = ids.to(self.lead.device)
        if not self.cache:
            return self.gpt(torch.cat([self.lead, ids], dim=1), use_cache=False).logits[:, -1]
        fresh = torch.cat([self.lead, ids], dim=1) if self.past is None else ids[:, self.seen :]
        out = self.gpt(fresh, past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past, self.seen = out.past_key_values, ids.shape[1]
        return out.logits[:, -1]


def pick(logits: Tensor, top_p: float, draws: Tensor) -> Tensor:
    """Nucleus sampling: logits [B,K], one uniform draw per row [B] → ids [B].

    Keeps the smallest set of likeliest codes whose mass reaches top_p (at least one).
    """
    share, order = logits.softmax(-1).sort(-1, descending=True)
    before = share.cumsum(-1) - share
    kept = before < top_p
    cumulative = (share * kept).cumsum(-1)
    place = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    return order.gather(-1, torch.minimum(place, kept.sum(-1, keepdim=True) - 1))[:, 0]


def _check_sampling(temperature: float, top_p: float, guidance: float) -> None:
    if not 0 < temperature < math.inf:
        raise XNeMoError(f"temperature must be above 0, not {temperature}")
    if not 0 < top_p <= 1:
        raise XNeMoError(f"top_p must lie in (0, 1], not {top_p}")
    if not 0 <= guidance < math.inf:
        raise XNeMoError(f"guidance must not be negative, not {guidance}")
