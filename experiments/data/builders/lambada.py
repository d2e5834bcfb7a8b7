"""LAMBADA (Paperno et al. 2016): passages whose last word a reader of the whole passage can guess.

test and valid are the published test and development passages, one a line, tokenised and in lower case;
train is the novels that come with them, a line of theirs a line. (GPT-2 was tested on another version of
the test passages, as they were before tokenisation.)
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, ClassVar

from experiments.data.builders.corpus import Corpus
from experiments.data.streams import check_inside, lines, plain, tar_members

_NOVELS = "train-novels.tar"


class Lambada(Corpus, skip_registration=True):
    name = "lambada"
    URLS = ("https://zenodo.org/record/2630551/files/lambada-dataset.tar.gz",)
    NAMES: ClassVar = {
        "train": (_NOVELS,),
        "valid": ("lambada_development_plain_text.txt",),
        "test": ("lambada_test_plain_text.txt",),
    }
    LINES: ClassVar = {("valid",): 4_869, ("test",): 5_153}  # of TensorFlow Datasets
    HOMEPAGE = "https://zenodo.org/record/2630551"
    LICENCE = "CC BY 4.0"

    def read(self, name: str, stream: BinaryIO, where: str) -> Iterator[str]:
        if plain(PurePosixPath(name).name) != _NOVELS:
            yield from lines(stream, where)
            return
        for path, novel in tar_members(stream, where):
            check_inside(path, where)
            if PurePosixPath(path).match("train-novels/*/*.txt"):
                yield from lines(novel, f"{where}: {path}")
