"""Norms of weights, not of activations."""
