"""Vélib Predictor: calibrated probabilities of finding a bike, an e-bike or a free dock."""

__version__ = "0.1.0"
