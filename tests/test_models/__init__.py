"""Tests of models."""

import os

# As `velib` has it when it trains: waiting threads sleep. It must be said before torch is loaded, else XGBoost's
# threads spin against each other, and on a busy machine its fits take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
