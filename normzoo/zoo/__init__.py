"""One norm per file: docstring, declaration, state if any."""
