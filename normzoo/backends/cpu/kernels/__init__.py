"""The kernels, one file per way of processing a view: rows, columns, sets of few values, running statistics; and those
that process no view: windows along an axis, moments of positions, scans along time.

`making.py` writes down what kernels take; what they hand to their parts are the records of `records.py`; what stands
before and behind a norm is done by helpers of `around.py`, which kernels close over as over flags.

They are written with the primitives of `vector` and share their turns through `parallel`; of the rest of the package
they only know `schedule.py`. No Python objects, no exceptions, no choice between kernels: that is made in `code.py`.
"""
