"""What is published of each family: where, how large, by what licence its code is, the number to reach.

None of the released files were at hand: what stands here is what their papers and cards say. The forward
passes were checked with small files in the same formats (docs/checkpoints.md).
"""

from typing import NamedTuple


class Release(NamedTuple):
    """One or several checkpoints. number: the published one, with its protocol; differs: what of that
    protocol `ddlm evaluate` does otherwise; tokenizer: what to give --tokenizer."""

    family: str
    names: tuple[str, ...]
    size: str
    tokenizer: str
    number: str
    differs: str


_OWT = "OpenWebText, its last 100,000 documents, packed to 1024"
_ZERO = "it gives the network time 0 as theirs does; boundary terms are exact here"
RELEASES = (
    Release(
        "mdlm",
        ("kuleshov-group/mdlm-owt", "kuleshov-group/mdlm-no_flashattn-fp32-owt"),
        "169,627,218 parameters",
        "gpt2",
        f"perplexity at most 23.21 ({_OWT}; 22.98 in the BD3-LM paper)",
        _ZERO,
    ),
    Release(
        "sedd",
        ("louaaron/sedd-small", "louaaron/sedd-medium"),
        "169,627,218 and 424,477,010 parameters",
        "gpt2",
        "zero-shot perplexity (SEDD paper, small): WikiText-2 at most 41.84, WikiText-103 40.62",
        "the bound here has the boundary terms at t = 0 and 1, which theirs leaves out",
    ),
    Release(
        "sedd-uniform",
        (),
        "none is released; made by the code of SEDD",
        "gpt2",
        "none",
        "the bound here has the boundary terms at t = 0 and 1, which theirs leaves out",
    ),
    Release(
        "bd3lm",
        tuple(f"kuleshov-group/bd3lm-owt-block_size{n}" for n in ("4", "8", "16", "1024-pretrain")),
        "about 170 million parameters",
        "gpt2",
        f"perplexity at most 20.73, 21.68, 22.27 for blocks of 4, 8, 16 ({_OWT}, no EOS inside)",
        "theirs never hides the first token and leaves it out of the mean; here it counts",
    ),
    Release(
        "duo",
        ("s-sahoo/duo", "s-sahoo/duo-distilled"),
        "169,627,218 parameters",
        "gpt2",
        f"perplexity at most 25.2 ({_OWT}); duo-distilled is another model, about 30.27",
        "the bound here has the boundary terms, 0.001 log V of them at t = 1",
    ),
    Release(
        "udlm",
        ("kuleshov-group/udlm-lm1b", "kuleshov-group/udlm-qm9"),
        "139,292,986 parameters (lm1b)",
        "bert-base-uncased (lm1b), yairschiff/qm9-tokenizer (qm9)",
        "LM1B, sentences of 128: perplexity at most 31.3; 36.7 packed",
        "theirs mixes alpha = 1 - t into a process of 1 - (1 - 1e-3) t; here one schedule is used",
    ),
    Release(
        "gidd",
        tuple(
            f"dvruette/gidd-{s}-p_unif-{p}"
            for s in ("small", "base")
            for p in ("0.0", "0.1", "0.2")
        ),
        "about 170 million parameters (small)",
        "gpt2, with [PAD] as token 50257",
        "perplexity at most 23.05, 23.67, 24.38 for p_unif 0.0, 0.1, 0.2 (small, OpenWebText)",
        "theirs takes random crops of 512 of one document; the ends of time are exact here",
    ),
    Release(
        "radd",
        ("JingyangOu/radd-lambda-dce", "JingyangOu/radd-t-dce"),
        "162,265,682 parameters (small), 405,191,762 (medium)",
        "gpt2",
        "zero-shot perplexities of the RADD paper",
        "the same bound: the mean likelihood over orders",
    ),
    Release(
        "ar",
        ("kuleshov-group/ar-noeos-owt",),
        "162,246,482 parameters",
        "gpt2",
        f"perplexity 17.54 ({_OWT}, in the BD3-LM paper)",
        "theirs leaves out the first token of a row; here it counts, after <|endoftext|>",
    ),
    Release(
        "llada",
        ("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct"),
        "8,015,581,184 parameters",
        "its own tokenizer.json, in its folder",
        "base: MMLU 65.9, ARC-C 45.9, HellaSwag 70.5, GSM8K 70.3",
        "scores of tasks, of their own protocol: 128 draws of a number of masked answer tokens",
    ),
    Release(
        "dream",
        ("Dream-org/Dream-v0-Base-7B", "Dream-org/Dream-v0-Instruct-7B"),
        "7,615,616,512 parameters",
        "tokenizer.json of Qwen2.5; the mask is token 151666",
        "scores of tasks in the report of Dream",
        "scores of tasks, of their own protocol",
    ),
    Release(
        "a2d-qwen3",
        ("dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1"),
        "596,049,920 parameters and a row for the mask",
        "tokenizer.json in its folder; --mask-token '<|mask|>', for bd3lm --block-size 32",
        "none of likelihood",
        "nothing to compare with",
    ),
    Release(
        "a2d-qwen2",
        ("dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",),
        "about 0.5 billion parameters",
        "tokenizer.json in its folder; --mask-token '<|mask|>'",
        "none of likelihood",
        "nothing to compare with",
    ),
    Release(
        "smdm",
        ("nieshen/SMDM",),
        "219,100,000 (170M without tables), 1,142,400,000 (1028M) and more",
        "tokenizer.model of TinyLlama",
        "scores of tasks in the SMDM paper",
        "scores of tasks, of their own protocol",
    ),
    Release(
        "plaid",
        ("igul222/plaid (Plaid-1B, four files of torch)",),
        "1,275,925,506 parameters",
        "its own tokenizer, of 32,768 tokens",
        "zero-shot perplexity (SEDD paper): WikiText-2 at most 51.80, LAMBADA 57.28",
        "the same bound; its z_1 is compared with noise of the size of ours",
    ),
    Release(
        "gpt2",
        tuple(f"openai-community/gpt2{size}" for size in ("", "-medium", "-large", "-xl")),
        "124 million to 1.5 billion parameters",
        "in its folder",
        "zero-shot perplexity (SEDD paper): WikiText-2 42.43, WikiText-103 41.60 (small)",
        "detokenisation and windows of the published protocols differ between papers",
    ),
    Release(
        "qwen2",
        ("Qwen/Qwen2.5-0.5B",),
        "0.5 billion to 72 billion parameters",
        "tokenizer.json in its folder",
        "none of likelihood",
        "the start of a conversion",
    ),
    Release(
        "qwen3",
        ("Qwen/Qwen3-0.6B-Base",),
        "0.6 billion parameters and more",
        "tokenizer.json in its folder",
        "none of likelihood",
        "the start of a conversion",
    ),
    Release(
        "bert",
        ("google-bert/bert-base-uncased",),
        "109,514,298 parameters; trunks such as sentence-transformers/all-MiniLM-L6-v2 too",
        "vocab.txt in its folder",
        "none of likelihood",
        "MDLM on a masked language model; the start of DiffusionBERT (configs/lm1b/diffusion_bert.py)",
    ),
    Release(
        "modernbert",
        (
            "answerdotai/ModernBERT-base",
            "dllm-hub/ModernBERT-base-chat",
            "dllm-hub/ModernBERT-large-chat",
        ),
        "149,655,232 parameters (base)",
        "tokenizer.json in its folder",
        "none of likelihood",
        "MDLM on a masked language model",
    ),
)


def release_of(family: str) -> Release | None:
    """What is published of a family; None where nothing is known."""
    return next((release for release in RELEASES if release.family == family), None)


def table() -> str:
    """All families, a paragraph each."""
    lines = []
    for release in RELEASES:
        names = ", ".join(release.names) or "no released file"
        lines += [
            f"{release.family}: {names}",
            f"  {release.size}",
            f"  tokenizer: {release.tokenizer}",
            f"  published: {release.number}",
            f"  differs: {release.differs}",
            "",
        ]
    return "\n".join(lines)
