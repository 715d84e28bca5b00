"""The web API: answers from stored issues. Nothing is computed by a model here."""
