"""Operations with several implementations: plain PyTorch, oneDNN on CPUs, Triton kernels on GPUs."""
