"""What a file would do when it is loaded."""
