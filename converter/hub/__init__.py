"""Checkpoints on the Hub or at a URL. Nothing outside this package imports huggingface_hub."""
