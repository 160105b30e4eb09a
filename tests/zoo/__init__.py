"""The zoo beyond the five: one file for each family, with an oracle and a row for every norm."""

from tests.zoo import unconditional, weights

ZOO = [*unconditional.CASES, *weights.CASES]
