"""A synthetic city with known rates: stations, riders, trucks and weather; it speaks GBFS over HTTP."""
