"""Sections about what the live system does by itself, and where it tells of it."""

from datetime import time, timedelta
from urllib.parse import urlsplit

from pydantic import field_validator

from velib_predictor.config.values import Duration, Section, TimeOfDay


class JobSettings(Section):
    """What the live system does by itself once a day, and how a newly trained model is judged."""

    retrain_at: TimeOfDay = time(3, 20)
    """When models are trained anew and judged, `03:20`, in the first system's time zone (UTC where the settings give
    none); `off` leaves it to cron."""
    prune_at: TimeOfDay = time(4, 20)
    """When expired data and old models are deleted, likewise."""
    hold_out: Duration = timedelta(days=8)
    """Newest days on which a challenger is compared with the champion, if neither was fitted on them. From 8 days on
    the comparison has an interval."""


class MlflowSettings(Section):
    """Where trainings and backtests are told of, if they are."""

    enabled: bool | None = None
    """Whether they are; empty does so where `tracking_uri` is given."""
    tracking_uri: str | None = None
    """A server (http://...) or a file (sqlite:///...); empty is mlruns/mlflow.db. MLFLOW_TRACKING_URI in the
    environment comes first. A server's user and password belong into MLFLOW_TRACKING_USERNAME and _PASSWORD."""
    experiment: str = "velib"
    """First part of the names of experiments and registered models; a system's id is the second."""

    @field_validator("tracking_uri")
    @classmethod
    def _without_password(cls, uri: str | None) -> str | None:
        if uri and urlsplit(uri).scheme not in ("http", "https", "sqlite", "postgresql"):
            raise ValueError("expected http(s)://host:port or sqlite:///mlruns/mlflow.db")
        if uri and urlsplit(uri).password:
            raise ValueError("it holds a password; put it into MLFLOW_TRACKING_PASSWORD in the environment")
        return uri

    @property
    def wanted(self) -> bool:
        """Whether runs are told of unless the command line says otherwise."""
        return bool(self.tracking_uri) if self.enabled is None else self.enabled
