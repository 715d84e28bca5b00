"""A city's state in a file, to go on from later."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from velib_predictor.simulation.city import City
from velib_predictor.simulation.demand import MINUTE, RIDE_FIELDS
from velib_predictor.simulation.layout import Ints
from velib_predictor.simulation.simulation import Simulation
from velib_predictor.simulation.state import State


def save(simulation: Simulation, file: Path) -> None:
    """Write the state; the city itself follows from its configuration."""
    state = simulation.state
    pieces = [piece for minute in sorted(state.rides) for piece in state.rides[minute]]
    rides = np.concatenate([np.zeros((RIDE_FIELDS, 0), dtype=np.int32), *pieces], axis=1)
    arrays: dict[str, Any] = {
        field.name: np.asarray(getattr(state, field.name)) for field in fields(State) if field.name != "rides"
    }
    np.savez_compressed(file, **arrays, rides=rides)


def load(city: City, file: Path) -> Simulation:
    """The simulation of `city` that was saved."""
    with np.load(file, allow_pickle=False) as arrays:
        values: dict[str, Any] = {
            name: arrays[name] if arrays[name].ndim else int(arrays[name]) for name in arrays.files
        }
    rides: Ints = values.pop("rides")
    state = State(**values, rides={})
    for minute in np.unique(rides[MINUTE]).tolist():
        state.rides[minute] = [rides[:, rides[MINUTE] == minute]]
    return Simulation.resumed(city, state)
