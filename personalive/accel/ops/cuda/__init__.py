"""Kernels in CUDA C++, for what cannot be said in Triton. The modules need `cuda-bindings` to be imported."""

CAPABILITY = (9, 0)
"""The only compute capability with the instructions that the kernels use: Hopper's."""
