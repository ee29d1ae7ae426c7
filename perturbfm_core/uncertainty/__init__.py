"""Calibration of predictions: variance scaling and conformal intervals, each Prediction -> Prediction."""
