"""Correctors: small networks behind the decoder of the codec ``dct``, trained without labels."""
