"""Statistics that outlive a pass: running ones, those of data in parts, recalibration, and what a person looks at.

May import `passes`, `selection` and the layer's base. Running statistics change in one step or not at all, here and
nowhere else; no norm is known by name.
"""
