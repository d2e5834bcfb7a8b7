"""Less training text, for a model that sees it many times."""

from dataclasses import replace

import numpy as np

from experiments.data.corpus import Corpus, sha256_of
from experiments.errors import UserError


def with_train_tokens(corpus: Corpus, size: int | None, documents_a_row: int) -> Corpus:
    """The same with the first `size` tokens of its training split, or all for None; of a text that was
    read by documents as many whole ones, `documents_a_row` at a time, as that has room for. UserError
    where there are fewer tokens."""
    if size is None:
        return corpus
    start, stop = corpus.bounds["train"]
    if size > stop - start:
        raise UserError(
            f"data.train_tokens = {size}, but the train split of {corpus.source} has {stop - start} "
            "tokens; lower it, or leave it out"
        )
    end = start + size
    if corpus.documents is not None:
        ends = corpus.documents.starts[::documents_a_row]
        end = int(ends[np.searchsorted(ends, end, side="right") - 1])
    tokens, unknown = corpus.tokens[start:end], dict(corpus.unknown)
    if unknown:
        unknown["train"] = int((tokens == corpus.tokenizer.unknown).sum())
    return replace(
        corpus,
        bounds={**corpus.bounds, "train": (start, end)},
        sha256={**corpus.sha256, "train": sha256_of(tokens)},
        unknown=unknown,
        files=f"{corpus.files}; of train the first {end - start:,} tokens",
    )
