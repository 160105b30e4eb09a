"""Norms whose scale and shift come from outside: a class, a condition, a style, a map."""
