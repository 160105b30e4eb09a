"""The kernels of PyTorch's operators, as C calls them: a file for each kind of norm, and the steps that they share."""
