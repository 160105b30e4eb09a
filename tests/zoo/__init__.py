"""The zoo beyond the five: one file for each family, with an oracle and a row for every norm."""

from tests.zoo import layer, unconditional

ZOO = [*unconditional.CASES, *layer.CASES]
