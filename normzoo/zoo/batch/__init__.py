"""Norms whose statistics are those of a channel over the batch, or follow from them."""
