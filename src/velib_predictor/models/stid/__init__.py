"""STID: a network that knows stations, times and the features of the trees, and says a distribution."""
