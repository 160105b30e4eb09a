"""Loops whose turns threads share, and whether a kernel may run on threads here and now.

They may import `compiling`, `vector` and whatever tells processes and threads apart. Never a kernel: how work is cut is
for the kernel to say, and shows in no result.
"""
