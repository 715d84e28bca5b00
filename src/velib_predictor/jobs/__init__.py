"""What is done again and again: issue, score, retrain, prune. Each is one function of a time, and a command."""
