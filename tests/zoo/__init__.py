"""The zoo beyond the five: one file for each family, with an oracle and a row for every norm."""

from tests.zoo import batch, graph, layer, series, spatial, unconditional, weights

ZOO = [*batch.CASES, *graph.CASES, *layer.CASES, *series.CASES, *spatial.CASES, *unconditional.CASES, *weights.CASES]
