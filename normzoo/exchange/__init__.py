"""Exchange with other libraries: names of other frameworks, state files, ONNX nodes, folding, configurations.

May import the layer base class and the zoo. Computes no norm. The rest of the package imports only the dialects of
`state_dict` from here, which the layer reads and writes.
"""
