"""What writes the generated pages of the documentation: pages of the zoo and of the reference, from docstrings,
declarations of the norms and records of measurements. `conf.py` calls `pages.write`."""
