"""Checkpoints on the Hub or at a URL. Nothing outside of this package imports huggingface_hub."""
