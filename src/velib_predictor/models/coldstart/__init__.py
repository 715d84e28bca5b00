"""Cold start: a network that knows no station by name and forecasts cities that it has never seen."""
