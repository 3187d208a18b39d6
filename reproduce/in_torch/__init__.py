"""The article's computations in PyTorch."""
