"""The One Billion Word benchmark (Chelba et al. 2013): news sentences in random order, one a line.

It has 99 training shards and 50 held-out ones, and no validation set. test is all 50 held-out shards, as
in the copies of TensorFlow Datasets and Hugging Face, which published diffusion models are tested on
(older work took held-out shard 0 alone). Those models are also validated on them; here valid is the last
training shard, so that train has 98.
"""

from typing import ClassVar

from experiments.data.builders.corpus import Corpus

_FOLDER = "1-billion-word-language-modeling-benchmark-r13output"
_SHARDS = [f"news.en-{number:05}-of-00100" for number in range(1, 100)]


class Lm1b(Corpus, skip_registration=True):
    name = "lm1b"
    URLS = (f"http://www.statmt.org/lm-benchmark/{_FOLDER}.tar.gz",)
    NAMES: ClassVar = {
        "train": tuple(_SHARDS[:-1]),
        "valid": tuple(_SHARDS[-1:]),
        "test": tuple(f"news.en.heldout-{number:05}-of-00050" for number in range(50)),
    }
    LINES: ClassVar = {("train", "valid"): 30_301_028, ("test",): 306_688}  # of TensorFlow Datasets
    HOMEPAGE = "http://www.statmt.org/lm-benchmark/"
    LICENCE = "of the news it is from; for research. The benchmark's scripts are Apache-2.0"
