"""The tables of the store, and reading and writing their rows: one module for each table."""
