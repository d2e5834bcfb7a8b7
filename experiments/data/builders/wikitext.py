"""WikiText (Merity et al. 2016), word level: good and featured articles of Wikipedia, rare words are
`<unk>`, a paragraph or heading a line, blank lines between them. WikiText-2 and WikiText-103 have the
same validation and test text in other vocabularies."""

from typing import ClassVar

from experiments.data.builders.corpus import SPLITS, Corpus

_NAMES = {split: (f"wiki.{split}.tokens",) for split in SPLITS}


class WikiText2(Corpus, skip_registration=True):
    name = "wikitext2"
    URLS = ("https://wikitext.smerity.com/wikitext-2-v1.zip",)
    NAMES: ClassVar = _NAMES
    DIGESTS: ClassVar = {  # of GluonNLP
        "train": "sha1:863f29c46ef9d167fff4940ec821195882fe29d1",
        "valid": "sha1:0418625c8b4da6e4b5c7a0b9e78d4ae8f7ee5422",
        "test": "sha1:c7b8ce0aa086fb34dab808c5c49224211eb2b172",
    }
    HOMEPAGE = "https://wikitext.smerity.com"
    LICENCE = "CC BY-SA"


class WikiText103(Corpus, skip_registration=True):
    name = "wikitext103"
    URLS = ("https://wikitext.smerity.com/wikitext-103-v1.zip",)
    NAMES: ClassVar = _NAMES
    DIGESTS: ClassVar = {  # of GluonNLP
        "train": "sha1:b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
        "valid": "sha1:c326ac59dc587676d58c422eb8a03e119582f92b",
        "test": "sha1:8a5befc548865cec54ed4273cf87dbbad60d1e47",
    }
    HOMEPAGE = "https://wikitext.smerity.com"
    LICENCE = "CC BY-SA"
