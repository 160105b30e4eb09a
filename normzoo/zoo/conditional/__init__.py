"""Norms whose scale and shift come from elsewhere: a class, a condition, a style, a map."""
