"""Cases for what reads settings: stored configs, and `--set`."""

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st

from diffusion.bfn import BFN
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.dense import Gaussian, Masked
from diffusion.edlm import EDLM
from diffusion.mdlm import MDLM
from experiments.config import Experiment, Teacher
from experiments.data.subwords import Subwords
from experiments.data.text import Text
from experiments.data.tokenizers import Tokenizer
from experiments.overrides import leaves, load, named, override, resolve
from experiments.serialization import encode
from experiments.studies.fuzzing.engine import Reader
from experiments.studies.fuzzing.mutations import ODD, json_text
from experiments.training.workdir import check_workdir
from models.energy import EnergyTransformer
from models.transformer import Transformer
from samplers.blocks import BlockByBlock
from samplers.remask import ReMDM
from samplers.sampler import Sampler

# A process of the user's own, whose annotations are texts.
_OWN = """
from __future__ import annotations
from dataclasses import dataclass, replace
from configs.smoke import get_config as smoke
from diffusion.mdlm import MDLM

@dataclass(frozen=True)
class Mine(MDLM):
    weight: float | None = 1.0

def get_config():
    return replace(smoke(), process=Mine())
"""
SMALL = Transformer(num_layers=1, width=16, num_heads=2, condition_width=8)
_ALPHABET = Text().tokenizer


def experiments() -> list[Experiment]:
    """Experiments whose settings together have every kind of value that a config stores."""
    plain = Experiment(MDLM(), SMALL, Text(length=16))
    made = [
        plain,
        replace(plain, sampler=ReMDM(), teacher=Teacher("runs/a")),
        Experiment(
            D3PM(kernel=Masked(Gaussian())), SMALL, Text(tokenizer=Subwords("v", "a" * 64, 27))
        ),
        Experiment(BFN(), SMALL),
        Experiment(BlockDiffusion(), SMALL, sampler=BlockByBlock()),
        Experiment(EDLM(), SMALL, energy=EnergyTransformer(), init_from="runs/a"),
    ]
    return [resolve(one, replace_size(one.data.tokenizer)) for one in made]


def replace_size(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer of a size that is known."""
    return tokenizer if tokenizer.vocab_size else _ALPHABET


def readers(folder: Path) -> list[Reader]:
    """The readers of this file, each with its cases; folder: where they may write."""
    made = experiments()
    stored = [json.loads(json.dumps(encode(one))) for one in made]

    def read_config(content: bytes, folder: Path) -> None:
        (folder / "config.json").write_bytes(content)
        check_workdir(folder, made[0])

    (folder / "own.py").write_text(_OWN)
    own = load(str(folder / "own.py"))

    def read_settings(items: list[str], folder: Path) -> None:
        for start in (own, made[0]):
            json.dumps(encode(override(start, items)), allow_nan=False)

    def read_sampler(text: str, folder: Path) -> None:
        named(Sampler, made[0].sampler, text, "--sampler")

    return [
        Reader("stored configs", 700, st.sampled_from(stored).flatmap(json_text), read_config),
        Reader("--set", 700, st.lists(_items(made[0]), min_size=1, max_size=3), read_settings),
        Reader("--sampler", 300, _samplers(), read_sampler),
    ]


def _values() -> st.SearchStrategy[str]:
    special = (
        "1e999", "-1e999", "nan", "inf", "(0.1, nan)", "MDML", "Mien", "1" * 400,
        "1" * 5000, "(" * 300, "[" * 100_000, "-" * 50_000 + "1",
        "{[]: 1}", "{{}}", "1if 1else 2", "'\\d'", "b'\\xff'", "__import__('os').system('true')",
        "().__class__", "f'{1}'", "1_0", "0x", "\\", "'", "…", "None", "true", "()", "(1,)", "1j", "...",
        "1 + 1j", "'a' 'b'", "\n", "\0", "\udcff", "a=b", "=",
    )  # fmt: skip
    odd = [
        value if isinstance(value, str) else repr(value)[:500] for value in ODD if value != 10**400
    ]
    return st.one_of(
        st.sampled_from((*special, *odd)),
        st.text(max_size=30),
        st.integers().map(str),
        st.floats().map(repr),
        st.recursive(st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=6).map(
            repr
        ),
        st.sampled_from(("MDLM", "UDLM", "Autoregressive", "Euler", "Characters", "Bytes", "mdlm")),
    )


def _items(experiment: Experiment) -> st.SearchStrategy[str]:
    paths = [
        *leaves(experiment),
        "process",
        "sampler",
        "model",
        "data.tokenizer",
        "teacher",
        "energy",
    ]
    path = st.one_of(
        st.sampled_from(paths),
        st.sampled_from(paths).map(lambda path: path + ".x"),
        st.sampled_from(paths).map(lambda path: path[1:]),
        st.text(max_size=20),
        st.sampled_from(
            ("", ".", "...", "__class__", "process.__init__", "a." * 5000, "x" * 50_000)
        ),
    )
    return st.one_of(st.builds("{}={}".format, path, _values()), st.text(max_size=30))


def _samplers() -> st.SearchStrategy[str]:
    names = (
        "Ancestral",
        "Euler",
        "ODE",
        "SlidingWindow",
        "ReMDM",
        "Unmask",
        "BlockByBlock",
        "os.system",
    )
    settings = (
        "steps",
        "grid",
        "logits_processor.top_p",
        "inner",
        "inner.steps",
        "information",
        "cached",
        "x",
    )
    one = st.builds("{}={}".format, st.sampled_from(settings), _values())
    words = st.lists(st.one_of(one, st.text(max_size=8)), max_size=3)
    start = st.one_of(st.sampled_from(names), st.text(max_size=8))
    return st.builds(lambda first, rest: " ".join([first, *rest]), start, words)
