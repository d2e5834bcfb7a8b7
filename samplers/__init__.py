"""How noise becomes text, given a process and a model. Imports diffusion."""
