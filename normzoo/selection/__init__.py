"""Values that do not count: masks, lengths, segments and weights, for every norm of the algebra.

An array with values left out becomes dense ones that a backend takes, or has weighted statistics. May import the checks
and the view of `passes`; never a layer, nor a norm.
"""
