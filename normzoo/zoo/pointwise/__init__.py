"""Layers that replace a norm and have no statistics, or only those of the values that they compute."""
