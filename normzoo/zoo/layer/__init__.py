"""Norms of each sample, or of its groups, heads or vectors."""
