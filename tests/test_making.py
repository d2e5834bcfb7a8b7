"""The picture of a text being made."""

import re
import xml.etree.ElementTree as ET

from experiments.studies.making import svg


def test_lines_are_frames_and_what_is_new_stands_out():
    symbols, mask = ["a", "<", " "], 3
    tokens = [[3, 3, 3, 3], [3, 1, 3, 3], [0, 1, 3, 3], [0, 1, 2, 0]]
    sample = {"tokens": tokens, "times": [1.0, 0.6, 0.3, 0.0]}
    picture = svg(sample, symbols, mask, 3)
    ET.fromstring(picture)
    lines = re.findall(r"<text .*?>(.*)</text>", picture)
    shown = [re.sub(r"<.*?>", "", line) for line in lines]
    assert shown == ["t = 1.00  ····", "t = 0.30  a&lt;··", "t = 0.00  a&lt; a"]
    new = [re.findall(r'class="new">(.*?)<', line) for line in lines]
    assert new == [[], ["a&lt;"], [" a"]]
