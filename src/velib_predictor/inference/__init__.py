"""From a fitted model and the latest panel to answers for people and programs."""
