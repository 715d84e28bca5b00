"""The models that every learned one must beat."""
