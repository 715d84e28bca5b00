"""`velib models`: which versions there are, how good they are, which is in force, and how that is changed."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from velib_predictor.commands.options import Now, moment
from velib_predictor.commands.output import ConfigFile, Db, Json, emit, open_database, progress_bar, start

if TYPE_CHECKING:
    from pathlib import Path

    from velib_predictor.config.config import Settings

app = typer.Typer(help="Versions of models: list them, put one in force, go back.", no_args_is_help=True)

OneSystem = Annotated[
    str | None, typer.Option("--system", metavar="ID", help="System (default: the only one that has models).")
]


@app.command("list")
def list_(
    system: Annotated[
        list[str] | None,
        typer.Option("--system", metavar="ID", help="System; repeatable (default: all that have models)."),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List all versions, newest first: what they were fitted on, how they compared, and which is in force."""
    settings = start(config, None)
    names = _having_models(settings, system)
    done = {name: _described(settings, name) for name in names}
    lines = [f"{'system':<12}{'version':<40}{'counts as':<12}{'fitted on':<26}{'RPS':>8}{'champion':>10}{'same':>8}"]
    for name, found in done.items():
        for row in found["versions"]:
            window = f"{row['first'][:10]} to {row['until'][:10]}" if row["until"] else "damaged"
            scores = row["comparison"] or {}
            rps, other, same = (
                "-" if scores.get(key) is None else f"{scores[key]:.4f}"
                for key in ("rps", "rps_champion", "rps_persistence")
            )
            lines.append(
                f"{name:<12}{row['version']:<40}{row['alias'] or '':<12}{window:<26}{rps:>8}{other:>10}{same:>8}"
                + (f"  {scores['reason']}" if scores else "")
            )
    emit(done, json, "\n".join(lines) if done else "no model has been trained yet (`velib train`, `velib retrain`)")


@app.command()
def promote(
    version: Annotated[
        str | None,
        typer.Argument(
            help="VERSION, MODEL/VERSION or the beginning of one (default: the challenger).", metavar="VERSION"
        ),
    ] = None,
    system: OneSystem = None,
    force: Annotated[bool, typer.Option("--force", help="Without comparing it with the one in force.")] = False,
    now: Now = None,
    db: Db = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Put a version in force, if it beats the present one on the days since both were fitted.

    Exit code 1 says that it was not put in force: it lost, it is damaged, or there are too few days to tell.
    """
    from velib_predictor.inference.registry import Ref
    from velib_predictor.inference.store import ModelStore
    from velib_predictor.jobs.promote import promote as run
    from velib_predictor.jobs.tracking import tell_standing, tracker_of
    from velib_predictor.utils.errors import UsageError

    instant = moment(now)
    settings = start(config, db)
    name = _one_system(settings, system)
    store = ModelStore(settings.models_dir)
    challenger = None if version else store.registry(name).read().challenger
    if not version and challenger is None:
        raise UsageError(f"{name} has no challenger; say which version with `velib models promote VERSION`")
    folder = store.find(name, version or str(challenger))
    with closing(open_database(settings)) as database, progress_bar() as tell:
        found = run(settings, database, name, folder, instant, force=force, progress=tell)
    told = tracker_of(settings)
    tell_standing(told, settings, name)
    ref = Ref.of(folder)
    emit(
        {"system_id": name, "champion": str(ref), "comparison": found},
        json,
        f"{name}: {ref} is in force" + (f"; {found['reason']}" if found else ""),
    )


@app.command()
def rollback(system: OneSystem = None, config: ConfigFile = None, json: Json = False) -> None:
    """Put the version that was in force before the present one back in force."""
    from datetime import UTC, datetime

    from velib_predictor.jobs.promote import roll_back
    from velib_predictor.jobs.tracking import tell_standing, tracker_of

    settings = start(config, None)
    name = _one_system(settings, system)
    standing = roll_back(settings, name, datetime.now(UTC))
    tell_standing(tracker_of(settings), settings, name)
    emit(
        {"system_id": name, "champion": str(standing.champion)}, json, f"{name}: {standing.champion} is in force again"
    )


def _having_models(settings: "Settings", names: list[str] | None) -> list[str]:
    """The systems that are meant.

    Raises:
        UsageError: one has no model.
    """
    from velib_predictor.inference.store import ModelStore
    from velib_predictor.utils.errors import UsageError

    there = ModelStore(settings.models_dir).systems()
    for name in names or []:
        if name not in there:
            raise UsageError(
                f"no model was trained for {name!r}; there are models for: {', '.join(there) or 'none yet'}"
            )
    return names or there


def _one_system(settings: "Settings", name: str | None) -> str:
    from velib_predictor.utils.errors import UsageError

    names = _having_models(settings, [name] if name else None)
    if len(names) != 1:
        raise UsageError(f"say which system with --system; there are models for: {', '.join(names) or 'none yet'}")
    return names[0]


def _described(settings: "Settings", system_id: str) -> dict[str, Any]:
    """All versions of a system, newest first, and the events of its registry."""
    from velib_predictor.inference.store import STAND_INS, ModelStore

    store = ModelStore(settings.models_dir)
    standing = store.registry(system_id).read()
    folders = store.folders(system_id)
    stand_in = store.newest_folder(system_id, STAND_INS[-1])
    rows = [_row(folder, standing.alias, folder == stand_in) for folder in folders]
    champion = store.in_force(system_id, settings.forecast.model)
    return {
        "in_force": f"{champion.parent.name}/{champion.name}" if champion else None,
        "versions": rows,
        "events": list(standing.log),
    }


def _row(folder: "Path", alias: Any, stands_in: bool) -> dict[str, Any]:
    from velib_predictor.inference.card import ABOUT, COMPARISON, read_json
    from velib_predictor.inference.registry import Ref
    from velib_predictor.models.base import ArtifactError, read_metadata

    try:
        fit = dict(read_metadata(folder)["fit"])
        trouble = None
    except (ArtifactError, KeyError, TypeError) as error:
        fit, trouble = {}, str(error)
    comparison = read_json(folder, COMPARISON)
    made_from = read_json(folder, ABOUT) or {}
    return {
        "version": str(Ref.of(folder)),
        "alias": alias(Ref.of(folder)) or ("stand-in" if stands_in else None),
        "first": fit.get("first"),
        "until": fit.get("until"),
        "days": fit.get("days"),
        "rows": fit.get("rows"),
        "data_sha256": made_from.get("data", {}).get("sha256"),
        "commit": made_from.get("program", {}).get("commit"),
        "comparison": comparison and {key: value for key, value in comparison.items() if key != "cells"},
        "trouble": trouble,
        "folder": str(folder),
    }
