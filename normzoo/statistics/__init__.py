"""Statistics that outlive a pass: running statistics, statistics of data in parts, recalibration, diagnosis.

May import `passes`, `selection` and the layer's base class; knows no norm by name. Running statistics are changed only
here: in one step, or not at all.
"""
