"""The reference documentation: HTML pages made from the docstrings; see `pages.build`."""
