"""Tensors in published files of safetensors and torch, read without torch and without unpickling."""

from experiments.tensor_files.reading import read_tensors
from experiments.tensor_files.safetensors import write_safetensors
from experiments.tensor_files.stored import StoredTensor, TensorFiles

__all__ = ["StoredTensor", "TensorFiles", "read_tensors", "write_safetensors"]
