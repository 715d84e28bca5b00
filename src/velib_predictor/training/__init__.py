"""What fitting and judging models need and no one model owns."""
