"""Values that do not count: masks, lengths, segments and weights, for every norm that the backends compute.

An array with values left out becomes dense arrays that a backend takes, or gets weighted statistics. May import the
checks and the view of `passes`; never a layer or a norm.
"""
