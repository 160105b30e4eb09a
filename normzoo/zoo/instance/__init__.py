"""Norms of the channels of each sample or of its positions, and mixtures of them."""
