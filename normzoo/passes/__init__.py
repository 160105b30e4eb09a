"""The way of an array to a backend and back: checks at the door, the view, the plan of a call, a pass, what it leaves.

Every norm of the algebra goes this way, layer or function; `normalize` is where it begins, `Saved.backward` where it
returns. May import `backends` and, for arrays with values left out, `selection`; knows no norm by name, keeps no
running statistics, and computes nothing of the size of x itself.
"""
