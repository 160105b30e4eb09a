"""The zoo beyond the five: one file for each family, with an oracle and a row for every norm."""

from tests.zoo import batch, unconditional

ZOO = [*batch.CASES, *unconditional.CASES]
