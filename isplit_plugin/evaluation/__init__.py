"""Prediction against measurement: predictors, rank statistics, naive rivals."""
