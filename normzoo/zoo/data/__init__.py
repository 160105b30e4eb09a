"""Norms of data sets and of time series, which can be inverted."""
