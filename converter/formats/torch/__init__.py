"""PyTorch's checkpoints: the zip form, the legacy stream before 1.6, and the tar before 0.1.10."""
