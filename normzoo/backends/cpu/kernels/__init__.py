"""The kernels, a file for each way of walking over a view: rows, columns, sets of few values, running statistics;
and what is no view: windows along an axis, moments of positions, scans along time.

`making.py` writes down what kernels take; what they hand to their parts are the records of `records.py`.

They are written in the words of `vector` and share their turns through `parallel`; of the rest of the package they know
`schedule.py` alone. Never Python objects, exceptions, or a choice between kernels: that is `code.py`'s.
"""
