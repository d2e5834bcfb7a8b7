"""Published corpora as builders of tensorflow-datasets that need no TensorFlow, one file a corpus.

Importing this package imports none of them: the command line lists them by `DATASETS`.
"""

from difflib import get_close_matches
from importlib import import_module

from experiments.errors import UserError

DATASETS = {  # name: (module, class, what it is)
    "text8": ("text8", "Text8", "Wikipedia in 27 letters, 90M, 5M and 5M characters"),
    "lm1b": ("lm1b", "Lm1b", "One Billion Word benchmark, a sentence a line"),
    "ptb": ("ptb", "Ptb", "Penn Treebank, 10,000 words, a sentence a line"),
    "wikitext2": ("wikitext", "WikiText2", "WikiText-2, word level, a paragraph a line"),
    "wikitext103": ("wikitext", "WikiText103", "WikiText-103, word level, a paragraph a line"),
    "lambada": ("lambada", "Lambada", "LAMBADA: novels, and passages to end, a line each"),
    "documents": (
        "documents",
        "Documents",
        "your .txt files, .jsonl records and tables, a document a line",
    ),
    "lines": ("documents", "Lines", "your .txt files, each line of which is a document"),
}


def builder_class(name: str) -> type:
    """The builder of a dataset; UserError with the nearest name where there is none."""
    if name not in DATASETS:
        near = get_close_matches(name.lower(), DATASETS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--dataset {name}: {hint}expected one of {', '.join(DATASETS)}")
    module, kind, _ = DATASETS[name]
    return getattr(import_module(f"{__name__}.{module}"), kind)
