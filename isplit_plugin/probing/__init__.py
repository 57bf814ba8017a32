"""The device's side of split-gradient probes, for heads that run on torch."""
