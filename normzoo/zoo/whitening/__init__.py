"""Norms that decorrelate channels; their statistics are matrices."""
