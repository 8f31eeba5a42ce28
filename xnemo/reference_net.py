"""The reference net: a UNet run once on the clean reference latent for the tokens it leaves (paper section 3.1)."""

from __future__ import annotations

from torch import Tensor

from xnemo.motion_encoder import told_place
from xnemo.reference_attention import Bank, SpatialTransformer
from xnemo.unet import Level, UNet


class ReferenceNet(UNet):
    """SD-1.5 shape without output layers. What follows the last stored tokens is dead: see `unused`."""

    def forward(self, latents: Tensor, context: Tensor, own: Tensor | None = None) -> Bank:
        """latents [B, C, h, w], context [B, 1, d] -> {block name: tokens [B, L, C]} at timestep 0.

        The tokens are those after `norm1`, before self-attention, of every spatial transformer. own: the motion tokens
        [B, L+1, c] of the reference's face at rest, where tokens know their place on it.
        """
        place = told_place(own)[1] if own is not None and self.config.token_places == "head" else None
        bank: Bank = {}
        *_, last = (name for name, _ in self.transformers())

        def visit(name: str, level: Level, index: int, x: Tensor, time: Tensor) -> Tensor:
            x = self.run("resnets", level.resnets[index], x, time)
            if level.attentions:
                transformer = level.attentions[index]
                assert isinstance(transformer, SpatialTransformer)
                key = f"{name}.attentions.{index}.transformer_blocks.0"
                if key == last:
                    bank[key] = transformer.block.norm1(transformer.tokens(x, place))
                else:
                    image = transformer.block.image_vector(context)
                    x, bank[key] = self.run("attentions", transformer, x, image, None, place)
            return x

        self.walk(latents, self.embed_time(latents.new_zeros(1)), visit)
        return bank

    def unused(self) -> set[str]:
        """Names of parameters that never receive a gradient: also all that runs after the last stored tokens."""
        *_, (last, _) = self.transformers()
        block, index = last.removesuffix(".transformer_blocks.0").split(".attentions.")
        attention = f"{block}.attentions.{index}."
        live = (f"{attention}norm.", f"{attention}proj_in.", f"{last}.norm1.")
        names = [name for name, _ in self.levels()]
        later = [f"{name}." for name in names[names.index(block) + 1 :]]
        later += [f"{block}.resnets.{j}." for j in range(int(index) + 1, self.config.layers_per_block + 1)]
        dead = (attention, f"{block}.upsamplers.", *later)
        behind = {n for n, _ in self.named_parameters() if n.startswith(dead) and not n.startswith(live)}
        return behind | super().unused()
