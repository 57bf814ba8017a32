"""Fitting transforms for the codec ``dct`` in closed form, from calibration photos."""
