"""What BERT and ModernBERT have in common: networks that fill in masks, with the head of masked language
models, which trunks such as sentence-transformers lack. Here each is a process that hides tokens, MDLM.
"""

from collections.abc import Mapping
from dataclasses import replace

from diffusion.mdlm import MDLM
from experiments.errors import UserError
from experiments.published.family import Architecture, Options, Sizes, without
from models.encoder import Encoder
from samplers.unmask import Tokens, Unmask

HEAD = ("ends/dense", "ends/head_norm", "ends/bias")  # what a trunk lacks


def architecture(
    model: Encoder,
    sizes: Sizes,
    options: Options,
    length: int,
    masks: Mapping[int, int],
    repeated: tuple[tuple[str, str], ...],
    trunk: bool,
) -> Architecture:
    """That of an encoder. length: of a sequence, where no option tells it. masks: the number of [MASK]
    in vocabularies of a size. trunk: whether the file has no head."""
    mask = options.mask
    if mask is None:
        mask = masks.get(model.num_tokens)
    if mask is None:
        raise UserError(
            "its files do not name the mask token; give --mask-token, a number or, with "
            "--tokenizer, its name, such as '[MASK]'"
        )
    sizes.notes.append(f"the mask is token {mask}, which is never drawn")
    if trunk:
        sizes.notes.append(
            "the file has no head of a masked language model: its dense layer, normalisation and biases "
            "begin fresh, so train before you sample"
        )
    return Architecture(
        model,
        MDLM(),
        Unmask("confidence", Tokens(1), logits_processor=without(mask)),
        options.length or length,
        replace(options, mask=mask),
        repeated,
        fresh=HEAD if trunk else (),
        notes=tuple(sizes.notes),
    )
