"""Norms by a window of neighbours, in space or along the channels."""
