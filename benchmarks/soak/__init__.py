"""A soak: load on a real TorchServe for minutes or hours, while parts of it fail. ``make soak``."""
