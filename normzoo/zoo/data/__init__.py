"""Norms of data sets and of series, which can be undone."""
