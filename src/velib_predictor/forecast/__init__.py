"""What a forecast is, and the algebra of its probabilities."""
