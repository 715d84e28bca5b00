"""How good the forecasts are, without flattering anyone."""
