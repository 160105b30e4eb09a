"""Norms of graphs: of the nodes of a batch of graphs, which `segments` tells apart, and of messages between nodes."""
