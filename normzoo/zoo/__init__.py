"""The norms, one per file: documentation, arguments, formula and, if any, running state."""
