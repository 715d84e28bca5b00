"""The files of the deployment, by what they say: names, ports, limits, what production may and may not do.

Whether the stack runs is another question, which `docker/prove.sh` answers where there is an engine.
"""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from velib_predictor.config.config import ENV_FILE, Settings, load_settings

SERVICES = {"timescaledb", "mlflow", "collector", "api"}
DEVELOPMENT = SERVICES | {"jupyter"}


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))
    return found


def merged(*names: str) -> dict[str, dict[str, Any]]:
    """The services of some files, the later over the earlier, as far as these tests look."""
    services: dict[str, dict[str, Any]] = {}
    for name in names:
        for service, more in compose(name)["services"].items():
            old = services.setdefault(service, {})
            for key, value in more.items():
                if isinstance(value, dict) and isinstance(old.get(key), dict):
                    old[key] = {**old[key], **value}
                elif isinstance(value, list) and key in ("ports", "volumes"):
                    old[key] = [*old.get(key, []), *value]
                else:
                    old[key] = value
    return services


@pytest.fixture(scope="module")
def development() -> dict[str, dict[str, Any]]:
    return merged("docker-compose.yml", "docker-compose.override.yml")


@pytest.fixture(scope="module")
def production() -> dict[str, dict[str, Any]]:
    return merged("docker-compose.yml", "docker-compose.prod.yml")


def dockerfile() -> str:
    return re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"))


def targets() -> dict[str, str]:
    """Each stage and what it says."""
    parts = re.split(r"^FROM (?:\S+) AS (\S+)$", dockerfile(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# -- compose -------------------------------------------------------------------------------------------------


def test_the_services_are_those_that_were_named(
    development: dict[str, dict[str, Any]], production: dict[str, dict[str, Any]]
) -> None:
    assert set(development) == DEVELOPMENT
    assert set(production) == SERVICES


def test_development_publishes_the_named_ports_to_this_machine_only(development: dict[str, dict[str, Any]]) -> None:
    published = {name: service.get("ports", []) for name, service in development.items()}
    assert published == {
        "timescaledb": ["127.0.0.1:${DB_PORT:-5432}:5432"],
        "mlflow": ["127.0.0.1:5000:5000"],
        "collector": [],
        "api": ["127.0.0.1:8000:8000"],
        "jupyter": ["127.0.0.1:8888:8888"],
    }


def test_production_publishes_the_api_alone(production: dict[str, dict[str, Any]]) -> None:
    assert {name for name, service in production.items() if service.get("ports")} == {"api"}


def test_each_service_is_watched_and_limited(development: dict[str, dict[str, Any]]) -> None:
    for name, service in development.items():
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        limits = service["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) > 0, name
        assert re.fullmatch(r"\d+G", limits["memory"]), name
        assert service["restart"] in ("unless-stopped", "always"), name


def test_nothing_starts_without_a_password(development: dict[str, dict[str, Any]]) -> None:
    for name, key in (("timescaledb", "POSTGRES_PASSWORD"), ("collector", "DB_PASSWORD"), ("api", "DB_PASSWORD"),
                      ("jupyter", "DB_PASSWORD"), ("jupyter", "JUPYTER_TOKEN")):  # fmt: skip
        variable = "JUPYTER_TOKEN" if key == "JUPYTER_TOKEN" else "DB_PASSWORD"
        assert development[name]["environment"][key].startswith(f"${{{variable}:?"), (name, key)
    for file in REPOSITORY.glob("docker-compose*.yml"):
        assert not re.search(r"\$\{(DB_PASSWORD|JUPYTER_TOKEN)(:?-[^}]+)?\}", file.read_text(encoding="utf-8"))


def test_production_is_hardened(production: dict[str, dict[str, Any]]) -> None:
    for name, service in production.items():
        assert service["read_only"] is True, name
        assert service["restart"] == "always", name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        if name != "timescaledb":  # whose entrypoint starts as root, gives the data to postgres and becomes it
            assert service["cap_drop"] == ["ALL"], name
        tag = service["image"].rpartition(":")[2]
        assert tag not in ("", "latest"), name


def test_production_reads_the_password_from_a_file_alone(production: dict[str, dict[str, Any]]) -> None:
    secret = {"POSTGRES_PASSWORD": "", "POSTGRES_PASSWORD_FILE": "/run/secrets/db_password"}
    assert secret.items() <= production["timescaledb"]["environment"].items()
    for name in ("collector", "api"):
        given = {"DB_PASSWORD": "", "DB_PASSWORD_FILE": secret["POSTGRES_PASSWORD_FILE"]}
        assert given.items() <= production[name]["environment"].items(), name
        assert production[name]["secrets"] == ["db_password"], name


def test_what_must_last_lies_in_named_volumes(production: dict[str, dict[str, Any]]) -> None:
    kept = {
        volume.partition(":")[0]: volume.partition(":")[2].removesuffix(":ro")
        for service in production.values()
        for volume in service.get("volumes", [])
    }
    assert kept == {
        "timescaledb-data": "/var/lib/postgresql/data",
        "mlflow-data": "/mlflow",
        "collector-data": "/app/data",
        "models": "/app/models",
        "backups": "/app/backups",
    }
    assert set(kept) == set(compose("docker-compose.yml")["volumes"])


def test_the_programs_in_the_image_are_of_the_servers_version(production: dict[str, dict[str, Any]]) -> None:
    match = re.fullmatch(r"timescale/timescaledb:\d+\.\d+\.\d+-pg(\d+)", production["timescaledb"]["image"])
    assert match
    assert set(re.findall(r"postgresql(?:-client-|/)(\d+)", dockerfile())) == {match[1]}


def test_settings_that_compose_hands_over_are_settings(
    development: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing set, too: Compose then hands over empty ones."""
    given = {name: value for service in development.values() for name, value in service.get("environment", {}).items()}
    for name, value in given.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+(?::-(.*?)|:\?.*?)?\}", r"\1", value))
    monkeypatch.delenv("DB_PASSWORD")
    monkeypatch.delenv("VELIB_WEATHER__URL")  # conftest's: no weather in tests
    found, default = load_settings(), Settings()
    assert found.mlflow == default.mlflow.model_copy(update={"tracking_uri": "http://mlflow:5000"})
    assert found.model_copy(update={"mlflow": default.mlflow}) == default


def test_the_example_of_env_names_all_that_compose_asks_for() -> None:
    asked = set()
    for file in REPOSITORY.glob("docker-compose*.yml"):
        asked |= set(re.findall(r"(?<!\$)\$\{(\w+)", file.read_text(encoding="utf-8")))
    example = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    assert asked <= set(re.findall(r"^#? ?(\w+)=", example, flags=re.MULTILINE))
    assert re.search(r"^DB_PASSWORD=$", example, flags=re.MULTILINE), "an example is no password"
    assert re.search(r"^JUPYTER_TOKEN=$", example, flags=re.MULTILINE)
    for default in ("DB_NAME=velib", "DB_USER=velib_user", "DB_PORT=5432", "LOG_LEVEL=INFO"):
        assert f"\n{default}\n" in example


# -- images --------------------------------------------------------------------------------------------------


def test_the_targets_are_there(development: dict[str, dict[str, Any]]) -> None:
    built = {service["build"]["target"] for service in development.values() if "build" in service}
    assert built == {"collector", "inference", "mlflow", "jupyter"}
    assert built | {"training"} <= set(targets())


@pytest.mark.parametrize("name", ["collector", "inference", "training", "jupyter", "mlflow"])
def test_images_run_as_nobody_special(name: str) -> None:
    stages, chain = targets(), [name]
    parent = {stage: base for base, stage in re.findall(r"^FROM (\S+) AS (\S+)$", dockerfile(), flags=re.MULTILINE)}
    while parent[chain[-1]] in stages:
        chain.append(parent[chain[-1]])
    said = [line for stage in reversed(chain) for line in stages[stage].splitlines()]
    users = [line.split()[1] for line in said if line.startswith("USER ")]
    assert users[-1:] == ["10001:10001"]
    assert any(line.startswith("HEALTHCHECK ") for line in said)
    command = [line for line in stages[name].splitlines() if line.startswith("CMD ")]
    assert len(command) == 1
    assert command[0].startswith('CMD ["'), "no shell stands between a signal and the program"


def test_collector_and_inference_carry_neither_torch_nor_figures() -> None:
    stages = targets()
    for name, made_in in (("collector", "slim"), ("inference", "serving")):
        assert re.findall(r"COPY --from=(\S+) /opt/velib", stages[name]) == [made_in]
    assert "FROM slim AS serving" in dockerfile()
    assert "requirements-deep" not in stages["build"] + stages["slim"] + stages["serving"]
    assert "matplotlib" in stages["slim"].partition("uninstall")[2]


def test_images_are_made_of_what_is_pinned() -> None:
    text = dockerfile()
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+-slim-[a-z]+$", text, flags=re.MULTILINE)
    for command in re.findall(r"pip install ([^&\n]*)", text):
        words = shlex.split(command)
        named = [word for word in words if not word.startswith("-") and word not in ("requirements.txt",)]
        assert all(
            "==" in word or word.startswith(("/wheels/", "docker/requirements-", "requirements")) for word in named
        ), command
    for file in (*REPOSITORY.glob("requirements*.txt"), *REPOSITORY.glob("docker/requirements*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert not line.strip() or line.lstrip().startswith("#") or "==" in line, (file.name, line)


def test_the_builder_is_sent_no_secrets_and_no_data() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "all is left out"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source.rstrip("/")
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(), flags=re.MULTILINE)
        for source in sources.split()
    }
    assert {source.partition("/")[0].removeprefix("./") for source in copied} == let_in
    assert not let_in & {".env", "secrets", "data", "models", "backups", ".git"}


# -- make and continuous integration -------------------------------------------------------------------------


def test_make_help_lists_the_named_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make (\S+)", done.stdout, flags=re.MULTILINE))
    wanted = {
        "setup", "test", "train", "demo", "run", "lint", "bench", "backup", "restore", "docker-dev", "docker-shell",
        "docker-backup", "docker-restore", "lint-deploy",
    }  # fmt: skip
    assert wanted <= listed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["docker-shell"], 'exec timescaledb sh -c \'exec psql -U "$POSTGRES_USER" -d "$POSTGRES_DB"\''),
        (["docker-backup", "ARGS=--plain"], "collector velib db backup --to /backups --plain"),
    ],
)
def test_what_make_would_run(arguments: list[str], expected: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *arguments, "COMPOSE=engine compose"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert expected in done.stdout
    assert "engine compose" in done.stdout


def test_restoring_as_written(tmp_path: Path) -> None:
    """`make docker-restore BACKUP_FILE=backups/velib_20241222_120000.sql`; the engine writes down its orders."""
    checkout = tmp_path / "checkout"
    (checkout / "backups").mkdir(parents=True)
    (checkout / "Makefile").write_text((REPOSITORY / "Makefile").read_text(encoding="utf-8"), encoding="utf-8")
    engine = checkout / "engine"
    engine.write_text('#!/bin/sh\necho "$@" >>orders\n[ "$1" = run ] && exit 3\nexit 0\n', encoding="utf-8")
    engine.chmod(0o755)
    command = ["make", "docker-restore", "COMPOSE=./engine", "BACKUP_FILE=backups/velib_20241222_120000.sql"]
    missing = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert missing.returncode != 0
    assert "no file 'backups/velib_20241222_120000.sql'" in missing.stderr
    assert not (checkout / "orders").exists()
    (checkout / "backups" / "velib_20241222_120000.sql").touch()
    failed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    orders = (checkout / "orders").read_text(encoding="utf-8").splitlines()
    assert failed.returncode != 0, "that it was not restored is not hidden"
    assert orders[0] == "stop collector api"
    assert orders[1].endswith(
        f"-v {checkout}/backups:/restore:ro collector velib db restore /restore/velib_20241222_120000.sql"
    )
    assert orders[2] == "start collector api"


def test_workflows_do_what_was_asked() -> None:
    ci = compose(".github/workflows/ci.yml")
    assert {"check", "timescaledb", "images"} <= set(ci["jobs"])
    image = ci["jobs"]["timescaledb"]["services"]["timescaledb"]["image"]
    assert image == compose("docker-compose.yml")["services"]["timescaledb"]["image"]
    deploy: dict[Any, Any] = compose(".github/workflows/deploy.yml")
    assert deploy[True]["push"]["tags"] == ["v*.*.*"]  # YAML 1.1 reads `on` as true
    steps = [step.get("name", step.get("uses")) for step in deploy["jobs"]["images"]["steps"]]
    assert steps.index("Build") < steps.index("Scan") < steps.index("Push")
    assert deploy["jobs"]["production"]["environment"] == "production"
    assert deploy["jobs"]["production"]["needs"] == "images"
    assert "make lint-deploy" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_secrets_are_not_committed() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {str(ENV_FILE), "/secrets/", "/backups/"} <= set(ignored)
