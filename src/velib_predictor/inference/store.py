"""Where fitted models live: one folder a training; which of them is in force says the registry beside them."""

import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from velib_predictor.config.config import check_system_id
from velib_predictor.inference.registry import Ref, Registry, Standing
from velib_predictor.models.base import MODELS, ArtifactError, Forecaster, load_model, read_metadata
from velib_predictor.utils.errors import UsageError
from velib_predictor.utils.logger import get_logger

_log = get_logger(__name__)
_VERSION = re.compile(r"\d{8}T\d{6}(\.\d+)?Z")
STAND_INS = ("persistence", "climatology")
"""What stands in at the end of the chain is always its newest training, and in force for nothing else."""


class ModelStore:
    """The fitted models under a folder, as FAMILY/SYSTEM/MODEL/VERSION; a version is the time of its training.

    The family is the model's folder in the package: `baseline`, later `lstm`, `gnn` and so on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def register(
        self, model: Forecaster, system_id: str, files: Mapping[str, str] | None = None
    ) -> tuple[Path, str | None]:
        """Save a fitted model: as challenger of one that was chosen to be in force, else in force at once.

        Returns its folder and "champion" or "challenger"; None for what only stands in.
        """
        if model.name in STAND_INS:
            return self.add(model, system_id, files), None
        registry = self.registry(system_id)
        self._written_down(registry)
        folder = self.add(model, system_id, files)
        return folder, registry.enter(Ref.of(folder), datetime.now(UTC))

    def settle(self, system_id: str) -> Standing:
        """What is in force stays so, whatever is trained after it."""
        registry = self.registry(system_id)
        self._written_down(registry)
        return registry.settle(datetime.now(UTC))

    def _written_down(self, registry: Registry) -> None:
        """A store of before there was a registry: what is its newest model is written down as such."""
        if registry.read().champion is None and (newest := self.in_force(registry.system_id)):
            registry.enter(Ref.of(newest), datetime.now(UTC))

    def add(self, model: Forecaster, system_id: str, files: Mapping[str, str] | None = None) -> Path:
        """Save a fitted model as the newest of its name; it is there as a whole or not at all.

        Args:
            files: texts by name that are kept beside it.
        """
        check_system_id(system_id)
        parent = self._folder / family(model.name) / system_id / model.name
        parent.mkdir(parents=True, exist_ok=True)
        version = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        partial = parent / f".{version}.{os.getpid()}.partial"
        try:
            model.save(partial)
            for name, text in (files or {}).items():
                (partial / name).write_text(text, encoding="utf-8")
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

    def systems(self) -> list[str]:
        """All systems that have a model."""
        return sorted(
            {
                path.parents[1].name
                for name in MODELS
                for path in (self._folder / family(name)).glob(f"*/{name}/*")
                if _VERSION.fullmatch(path.name)
            }
        )

    def registry(self, system_id: str) -> Registry:
        """Which versions of a system are in force."""
        return Registry(self._folder, system_id)

    def folder(self, system_id: str, ref: Ref) -> Path:
        """Where a version lies, or would lie."""
        return self._folder / family(ref.model) / system_id / ref.model / ref.version

    def in_force(self, system_id: str, name: str | None = None) -> Path | None:
        """The version that forecasts: the champion; without one, or if it is of another name, the newest.

        Args:
            name: of the only model that may; any if not given, but for those that stand in.

        Raises:
            ArtifactError: what says so is damaged.
        """
        champion = self.registry(system_id).read().champion
        if champion and name in (None, champion.model):
            return self.folder(system_id, champion)
        return self.newest_folder(system_id, name)

    def newest_folder(self, system_id: str, name: str | None) -> Path | None:
        """The newest version of that model, or of any that does not only stand in."""
        folders = self.folders(system_id)
        asked = (f for f in folders if (f.parent.name == name if name else f.parent.name not in STAND_INS))
        return next(asked, None)

    def find(self, system_id: str, text: str) -> Path:
        """The version that is meant by VERSION, MODEL/VERSION or the beginning of one.

        Raises:
            UsageError: there is none, or several.
        """
        folders = self.folders(system_id)
        found = [f for f in folders if f.name.startswith(text) or str(Ref.of(f)).startswith(text)]
        exact = [f for f in found if text in (f.name, str(Ref.of(f)))]
        if len(exact or found) == 1:
            return (exact or found)[0]
        there = ", ".join(str(Ref.of(f)) for f in (found or folders)[:5]) or "none yet"
        raise UsageError(
            f"{text!r} means {'several versions' if found else 'no version'} of {system_id!r}; there are: {there}"
            + (" and older ones" if len(found or folders) > 5 else "")
            + "; see `velib models list`"
        )

    def prune(self, keep: int) -> int:
        """Delete all but the newest `keep` versions of every model of every system; returns how many went.

        What is in force, challenges it, or can be gone back to stays; of a system whose registry is damaged, all.
        """
        gone = 0
        for name in MODELS:
            for parent in (self._folder / family(name)).glob(f"*/{name}"):
                versions = sorted(path for path in parent.iterdir() if _VERSION.fullmatch(path.name))
                try:
                    kept = self.registry(parent.parent.name).read().kept() if versions[:-keep] else set()
                except ArtifactError as error:
                    _log.warning("old models are not deleted", system=parent.parent.name, error=str(error))
                    continue
                for old in versions[:-keep]:
                    if Ref.of(old) in kept:
                        continue
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
        return load_of(chosen[0], system_id)

    def serving(self, system_id: str) -> Forecaster:
        """The model in force; where there is only what stands in, its newest.

        Raises:
            UsageError: there is no model.
            ArtifactError: it is damaged, or of another system.
        """
        folder = self.in_force(system_id)
        return load_of(folder, system_id) if folder else self.newest(system_id)


def load_of(folder: Path, system_id: str) -> Forecaster:
    """The saved model in a folder, if it is of that system.

    Raises:
        ArtifactError: it is damaged, or of another system.
    """
    fitted_on = read_metadata(folder).get("fit", {}).get("system_id")
    if fitted_on is None:
        raise ArtifactError(f"the model in {folder} is damaged (it says of no system); train it anew")
    if fitted_on != system_id:
        raise ArtifactError(f"the model in {folder} was fitted on the system {fitted_on!r}, not {system_id!r}")
    return load_model(folder)


def family(name: str) -> str:
    """The folder of a model in the package."""
    return MODELS[name].split(".")[2]
