"""PyTorch's checkpoints: the zip form, and the legacy stream of before 1.6."""
