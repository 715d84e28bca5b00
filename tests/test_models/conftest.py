"""The command line on a small imported history, for models too."""

from tests.test_cli_forecast import history, velib

__all__ = ["history", "velib"]
