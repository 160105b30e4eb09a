"""What surrounds the package: the operating system, what is installed and in which version, what is compiled ahead.

`system` and `extras` import nothing of the package, so that any room may ask them; `ahead` and `versions` look at the
whole of it, and only the door imports these. No other file asks which system or which optional package there is.
"""
