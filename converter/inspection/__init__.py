"""What a checkpoint is and what it holds."""
