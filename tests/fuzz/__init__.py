"""Coverage-guided fuzzing of everything that reads what others wrote: ``make fuzz``.

A *target* is one reader of the product. A *case* is the bytes that a target is run on. Cases that
once broke a target are kept in ``cases/`` and replayed by ``make test``.
"""
