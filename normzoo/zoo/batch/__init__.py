"""Norms that use the statistics of each channel over the batch, or statistics derived from them."""
