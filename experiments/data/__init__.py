"""From text files to batches of tokens: alphabets, memory-mapped corpora, the input pipeline."""
