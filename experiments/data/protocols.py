"""Context protocols by name: how a published number had its text cut into sequences.

A number depends on them: perplexity per token falls with longer contexts, with begin tokens that are
certain, with neighbours that tell of each other. What begins and ends a document counts as a token.

    text8-90-5-5     27 letters, 256 of them at a time; 90, 5 and 5 million (D3PM, MD4, MDLM)
    lm1b-sentence128 bert-base-uncased, [CLS] sentence [SEP], one a row of 128, padded (MDLM)
    lm1b-wrap128     the same sentences end to end, cut every 128 tokens (BD3-LM, Duo)
    lm1b-pack128     as many whole sentences as fit into 128, none seeing another
    owt-1024         GPT-2's tokens, documents, a line each, end to end with <|endoftext|> after each,
                     1024 at a time (MDLM, SEDD); `prepare` makes lines of documents, whose own line
                     breaks become spaces, unlike in the published text

In lm1b-sentence128 and lm1b-pack128 the bound is given the length of each sentence, since padding is
neither predicted nor seen; a longer sentence goes on in another row, where the published code drops its
end. A run follows a protocol if its data has these settings, whatever its path: `protocol_of`.
"""

from dataclasses import fields, replace
from typing import Any

from experiments.data.corpus import SPLITS
from experiments.data.subwords import Subwords
from experiments.data.text import Text

BERT = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"  # bert-base-uncased
GPT2 = "e8796d364601214f3e2afee838bc084526de5e8d17c4032104d5905fcb8c7e3d"  # encoder.json, vocab.bpe
SIZES = {BERT: 30522, GPT2: 50257}  # tokens of these vocabularies

_LM1B = Text(
    path="lm1b",
    tokenizer=Subwords("vocab.txt", BERT),
    length=128,
    document="line",
    begin="[CLS]",
    end="[SEP]",
)
PROTOCOLS = {
    "text8-90-5-5": Text(
        path="text8", length=256, split_points=(90_000_000, 95_000_000, 100_000_000)
    ),
    "lm1b-sentence128": replace(_LM1B, rows="sentence"),
    "lm1b-wrap128": _LM1B,
    "lm1b-pack128": replace(_LM1B, rows="pack"),
    "owt-1024": Text(
        path="openwebtext",
        tokenizer=Subwords("gpt2", GPT2),
        length=1024,
        document="line",
        end="<|endoftext|>",
    ),
}
_FREE = (
    "path", "cache_dir", "tokenizer", "splits", "split_points", "labels", "label_names", "train_tokens",
)  # fmt: skip


def protocol(name: str, **settings: Any) -> Text:
    """The data of a protocol, with other settings, such as its path, where they are given."""
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is not one of {', '.join(PROTOCOLS)}")
    return replace(PROTOCOLS[name], **settings)


def protocol_of(data: Text, bounds: dict[str, tuple[int, int]]) -> str | None:
    """The name of the protocol that the data, whose splits have these bounds, follows; None for none."""
    sizes = tuple(bounds.get(name, (0, 0))[1] for name in SPLITS)
    for name, known in PROTOCOLS.items():
        same = known.split_points in (None, sizes) and all(
            getattr(data, f.name) == getattr(known, f.name)
            for f in fields(Text)
            if f.name not in _FREE
        )
        if same and _alphabet(data.tokenizer) == _alphabet(known.tokenizer):
            return name
    return None


def _alphabet(tokenizer) -> object:
    return tokenizer.sha256 or type(tokenizer)
