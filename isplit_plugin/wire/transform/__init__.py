"""Transform coding of activations (Goyal, *IEEE Signal Processing Magazine* 2001).

A transform is fitted for one split point (:mod:`isplit_plugin.network`) and travels with the model.
The code here encodes and decodes with it, on numpy alone. From the integer coefficients on, equal
input gives equal bytes on every machine.
"""
