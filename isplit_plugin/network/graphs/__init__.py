"""The functional graph of a captured network: building it, checking it, and reading split points
off it.
"""
