"""LLaDA-8B (arXiv 2502.09992): 32 layers x 4096, 8.02 B parameters.

    python -m experiments.plan --config configs/published/llada_8b.py --topology v5e:2x4 \\
        --what evaluate sample

What `ddlm import` makes of it. Parameters are float32, 32 GB over 8 chips. Plans: docs/pods.md. The
released weights were not at hand; to begin with them, --set init_from=RUN of an import. Not yet run on
a TPU.
"""

from diffusion.mdlm import MDLM
from experiments.config import Evaluation, Experiment, Mesh, Train
from experiments.data.text import Text
from experiments.data.tokenizers import Numbers
from models.transformer import Transformer
from samplers.logits_processor import LogitsProcessor
from samplers.unmask import Tokens, Unmask

TOKENS, MASK = 126_464, 126_336


def get_config() -> Experiment:
    return Experiment(
        process=MDLM(),
        model=Transformer(
            vocab_size=TOKENS,
            num_layers=32,
            width=4096,
            num_heads=32,
            num_key_heads=32,
            head_width=128,
            mlp="swiglu",
            mlp_width=12_288,
            norm="rms",
            norm_eps=1e-5,
            head_bias=False,
            rotary_base=500_000.0,
            scan=True,
            remat=True,
        ),
        data=Text(tokenizer=Numbers(TOKENS), length=4096),
        sampler=Unmask("confidence", Tokens(1), logits_processor=LogitsProcessor(banned=(MASK,))),
        train=Train(batch_size=256),
        evaluation=Evaluation(batch_size=8),
        mesh=Mesh(data=-1, fsdp=8),
    )
