"""The kernels, a file for each way of walking over a view: rows, columns, sets of few values, running statistics.

`making.py` writes down what kernels take; what they hand to their parts are the records of `records.py`; what stands
before and behind a norm is done by helpers of `around.py`, which kernels close over as over flags.

They are written in the words of `vector` and share their turns through `parallel`; of the rest of the package they know
`schedule.py` alone. Never Python objects, exceptions, or a choice between kernels: that is `code.py`'s.
"""
