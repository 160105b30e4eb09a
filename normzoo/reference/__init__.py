"""The reference: pages for a browser, made from the docstrings; see `pages.build`."""
