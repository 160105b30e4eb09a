"""What comes from elsewhere and goes there: other frameworks' names, state files, ONNX nodes, folding, configurations.

May import the layer and the zoo, of which most of it speaks. Nothing here computes a norm, and but for the dialects of
`state_dict`, which the layer reads and writes, the rest of the package never imports it.
"""
