"""Heads that compute in int8: made, run and kept in a file."""
