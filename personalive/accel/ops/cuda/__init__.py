"""Kernels in CUDA C++, compiled when they are first used. Importing this package needs `cuda-bindings`.

What is here needs instructions that Triton's language does not give a program to order: see the kernels themselves.
"""
