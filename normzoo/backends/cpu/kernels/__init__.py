"""The kernels, one file per way of processing a view: rows, columns, sets of few values, running statistics.

`making.py` has the kernels' arguments; `records.py` has the records that they pass to their parts.

They are written with the primitives of `vector` and share their turns through `parallel`; of the rest of the package
they only know `schedule.py`. No Python objects, no exceptions, no choice between kernels: that is made in `code.py`.
"""
