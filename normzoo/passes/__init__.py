"""The path from an array to a backend and back: argument checks, the view, the plan, the pass, and what it saves.

Every norm that the backends compute takes this path, layer or function. `normalize` is the start of the forward pass,
`Saved.backward` that of the backward pass. May import `backends` and, for arrays with values left out, `selection`;
knows no norm by name, keeps no running statistics, and computes nothing of the size of x itself.
"""
