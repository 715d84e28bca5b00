"""Where fitted models live: one folder a training, the newest of a name counts."""

import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

from velib_predictor.config.config import check_system_id
from velib_predictor.models.base import MODELS, ArtifactError, Forecaster, load_model, read_metadata
from velib_predictor.utils.errors import UsageError

_VERSION = re.compile(r"\d{8}T\d{6}(\.\d+)?Z")


class ModelStore:
    """The fitted models under a folder, as FAMILY/SYSTEM/MODEL/VERSION; a version is the time of its training.

    The family is the model's folder in the package: `baseline`, later `lstm`, `gnn` and so on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, model: Forecaster, system_id: str) -> Path:
        """Save a fitted model as the newest of its name; it is there as a whole or not at all."""
        check_system_id(system_id)
        parent = self._folder / family(model.name) / system_id / model.name
        parent.mkdir(parents=True, exist_ok=True)
        version = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        partial = parent / f".{version}.{os.getpid()}.partial"
        try:
            model.save(partial)
            partial.rename(parent / version)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return parent / version

    def folders(self, system_id: str) -> list[Path]:
        """All models of a system, newest first."""
        found = [
            path
            for name in MODELS
            for path in (self._folder / family(name) / system_id / name).glob("*")
            if _VERSION.fullmatch(path.name)
        ]
        return sorted(found, key=lambda path: (path.name, path.parent.name), reverse=True)

    def prune(self, keep: int) -> int:
        """Delete all but the newest `keep` versions of every model of every system; returns how many went."""
        gone = 0
        for name in MODELS:
            for parent in (self._folder / family(name)).glob(f"*/{name}"):
                versions = sorted(path for path in parent.iterdir() if _VERSION.fullmatch(path.name))
                for old in versions[:-keep]:
                    shutil.rmtree(old)
                    gone += 1
        return gone

    def newest(self, system_id: str, name: str | None = None) -> Forecaster:
        """The newest model of a system, of that name or of any.

        Raises:
            UsageError: there is none, or none of that name is known.
            ArtifactError: it is damaged, or of another system.
        """
        if name is not None and name not in MODELS:
            raise UsageError(f"unknown model {name!r}; there are: {', '.join(MODELS)}")
        folders = self.folders(system_id)
        chosen = [folder for folder in folders if name in (None, folder.parent.name)]
        if not chosen:
            there = sorted({folder.parent.name for folder in folders})
            raise UsageError(
                f"no {name or 'model'} was trained for {system_id!r}"
                + (f" (there are: {', '.join(there)})" if there else "")
                + f"; make one with `velib train {name or 'xgboost'} --system {system_id}`"
            )
        fitted_on = read_metadata(chosen[0]).get("fit", {}).get("system_id")
        if fitted_on is None:
            raise ArtifactError(f"the model in {chosen[0]} is damaged (it says of no system); train it anew")
        if fitted_on != system_id:
            raise ArtifactError(f"the model in {chosen[0]} was fitted on the system {fitted_on!r}, not {system_id!r}")
        return load_model(chosen[0])


def family(name: str) -> str:
    """The folder of a model in the package."""
    return MODELS[name].split(".")[2]
