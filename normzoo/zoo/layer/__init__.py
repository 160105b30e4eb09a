"""Norms of each sample, or of groups, heads or vectors of it."""
