"""docker-compose.airflow.yml: valid for the real Compose, and everything that it names exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.fernet import Fernet

from backline.airflow.defaults import configured_pools, lane_pool
from backline.settings import ROOT, LaneSettings, load
from stack.environment import build_environment
from stack.paths import Paths
from stack.postgres import SERVER_SETTINGS, Cluster
from stack.secrets import Secrets
from testkit.containers import files

SETTINGS = load(ROOT / "include" / "config" / "backline.toml")
COMPOSE_TEXT = files.COMPOSE_FILE.read_text(encoding="utf-8")
SECRETS = ("POSTGRES_PASSWORD", "AIRFLOW_DB_PASSWORD", "BACKLINE_DB_PASSWORD", "REDIS_PASSWORD", "AIRFLOW_FERNET_KEYS",
           "BACKLINE_FERNET_KEYS", "AIRFLOW_JWT_SECRET", "AIRFLOW_SECRET_KEY", "BACKLINE_PASSWORD")  # fmt: skip
AIRFLOW_SERVICES = ("init", "api-server", "scheduler", "dag-processor", "triggerer", "maintenance", "mail")
WORKERS = {"worker-critical": "critical", "worker-default": "default", "worker-bulk": "bulk", "worker-reports": "reports"}  # fmt: skip


@pytest.fixture(scope="module")
def values() -> dict[str, str]:
    return files.example_values()


@pytest.fixture(scope="module")
def services(values: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return files.compose_services(values, tmp_path_factory.mktemp("compose"))


def variable_names(text: str) -> set[str]:
    """Variables that the file reads from .env: ${NAME...}, and those passed on by a key without a value."""
    bare = re.findall(r"^  ([A-Z]\w+):$", text, flags=re.MULTILINE)
    return {*re.findall(r"(?<!\$)\$\{(\w+)", text), *bare}


# --- .env -----------------------------------------------------------------------------------------


def test_compose_accepts_the_file_without_a_warning(values: dict[str, str], tmp_path: Path) -> None:
    done = files.compose_config(values, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [*SECRETS, "SMTP_HOST"])
def test_a_missing_variable_is_named_before_anything_starts(name: str, values: dict[str, str], tmp_path: Path) -> None:
    done = files.compose_config({**values, name: ""}, tmp_path)
    assert done.returncode != 0
    assert f"{name}" in done.stderr
    assert "see .env.example" in done.stderr


def test_the_example_has_every_variable_with_a_comment_and_no_unused_one() -> None:
    example = files.example_variables()
    assert variable_names(COMPOSE_TEXT) <= set(example)
    assert [name for name, variable in example.items() if not variable.comment] == []
    # The launcher's, and Compose's own.
    assert set(example) - variable_names(COMPOSE_TEXT) == {"BACKLINE_HOME", "COMPOSE_FILE"}
    assert example["COMPOSE_FILE"].value == files.COMPOSE_FILE.name


def test_the_example_shows_the_defaults() -> None:
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]+)\}", COMPOSE_TEXT))
    example = files.example_variables()
    shown = {name: example[name].value for name in defaults if not example[name].is_required}
    # These two show values for a database outside of the container.
    assert {name: value for name, value in shown.items() if defaults[name] != value} == {
        "BACKLINE_DB_HOST": "db.shop.example",
        "BACKLINE_DB_SSLMODE": "verify-full",
    }
    assert len(shown) > 8


def test_the_commands_in_the_example_generate_good_secrets(values: dict[str, str]) -> None:
    assert [name for name in SECRETS if len(values[name]) < 24] == []
    assert len({values[name] for name in SECRETS}) == len(SECRETS)
    assert len(values["AIRFLOW_JWT_SECRET"]) >= 64
    for name in ("AIRFLOW_FERNET_KEYS", "BACKLINE_FERNET_KEYS"):
        Fernet(values[name])
    # The others become parts of URLs and of JSON.
    assert all(values[name].isalnum() for name in SECRETS if "FERNET" not in name)


# --- containers -----------------------------------------------------------------------------------


def test_it_has_the_components_of_the_embedded_stack(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "redis", *AIRFLOW_SERVICES, *WORKERS}
    assert services["mail"]["profiles"] == ["dev"]
    assert all("profiles" not in each for name, each in services.items() if name != "mail")


def test_the_settings_are_those_of_the_embedded_stack_except_for_necessary_differences(
    services: dict[str, Any], tmp_path: Path
) -> None:
    paths = Paths(ROOT, tmp_path, 8080)
    secrets = Secrets()
    embedded = build_environment(paths, secrets, Cluster(paths, secrets))
    ours = {**services["api-server"]["environment"], **files.image_environment()}
    differ = {name for name, value in embedded.items() if name.startswith("AIRFLOW") and ours.get(name) != value}
    assert differ == {
        *(f"AIRFLOW__CORE__{key}" for key in ("AUTH_MANAGER", "EXECUTOR", "EXECUTION_API_SERVER_URL", "PARALLELISM")),
        # The simple auth manager is for development.
        *(f"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_{key}" for key in ("ALL_ADMINS", "PASSWORDS_FILE", "USERS")),
        # Addresses, folders and secrets.
        "AIRFLOW_HOME", "AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__PLUGINS_FOLDER", "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC", "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW_CONN_BACKLINE_AIRFLOW", "AIRFLOW_CONN_BACKLINE_DB", "AIRFLOW_CONN_SMTP_DEFAULT", "AIRFLOW_CONN_SMS_GATEWAY", "AIRFLOW_CONN_PUSH_GATEWAY",
        "AIRFLOW_CONN_STRIPE_API", "AIRFLOW_CONN_STRIPE_HOOKS", "AIRFLOW_CONN_RAZORPAY_HOOKS",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER",
        # On its command line.
        "AIRFLOW__API__HOST", "AIRFLOW__API__PORT", "AIRFLOW__API__WORKERS",
        # An image's files do not change.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL",
    }  # fmt: skip
    assert ours["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert "FabAuthManager" in ours["AIRFLOW__CORE__AUTH_MANAGER"]


def test_postgres_has_the_settings_of_the_embedded_server(services: dict[str, Any]) -> None:
    given = dict(word.removeprefix("-c").split("=", 1) for word in services["postgres"]["command"][1:])
    # The image decides where it listens.
    listening = ("listen_addresses", "unix_socket_permissions")
    assert given == {key: value for key, value in SERVER_SETTINGS.items() if key not in listening}


def test_connections_are_json_that_airflow_reads(services: dict[str, Any], values: dict[str, str]) -> None:
    found = services["worker-default"]["environment"]
    database, smtp = (json.loads(found[f"AIRFLOW_CONN_{name}"]) for name in ("BACKLINE_DB", "SMTP_DEFAULT"))
    assert (database["host"], database["port"], database["password"]) == (
        "postgres",
        5432,
        values["BACKLINE_DB_PASSWORD"],
    )
    assert (smtp["host"], smtp["port"], smtp["extra"]) == ("mail", 1025, {"disable_ssl": True, "disable_tls": True})


def test_a_task_cannot_reach_airflows_database_or_sign_its_tokens(
    services: dict[str, Any], values: dict[str, str]
) -> None:
    for worker in WORKERS:
        text = json.dumps(services[worker])
        hidden = ("AIRFLOW_DB_PASSWORD", "POSTGRES_PASSWORD", "AIRFLOW_FERNET_KEYS", "AIRFLOW_JWT_SECRET")
        assert [name for name in hidden if values[name] in text] == []
        assert values["BACKLINE_DB_PASSWORD"] in text


def test_no_secret_is_on_a_command_line(services: dict[str, Any], values: dict[str, str]) -> None:
    lines = json.dumps([[each.get("command"), each.get("healthcheck")] for each in services.values()])
    assert [name for name in SECRETS if values[name] in lines] == []


def test_it_publishes_airflow_and_the_caught_mail_on_loopback_and_nothing_else(services: dict[str, Any]) -> None:
    published = {
        name: [(port["host_ip"], port["published"]) for port in each["ports"]]
        for name, each in services.items()
        if "ports" in each
    }
    assert published == {"api-server": [("127.0.0.1", "8080")], "mail": [("127.0.0.1", "8082")]}
    assert [list(services[name]["networks"]) for name in ("postgres", "redis")] == [["data"], ["data"]]


def test_each_service_is_bounded_and_restarts(services: dict[str, Any]) -> None:
    for name, each in services.items():
        assert each["restart"] == ("on-failure:3" if name == "init" else "unless-stopped"), name
        assert set(each["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert set(each["logging"]["options"]) == {"max-size", "max-file"}, name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        # init ends; maintenance has only its log.
        assert ("healthcheck" in each) == (name not in ("init", "maintenance")), name
        if name != "postgres":  # its entry point switches to its own user
            assert each["cap_drop"] == ["ALL"], name
            assert each["init"], name


def test_all_services_wait_for_the_migrations(services: dict[str, Any]) -> None:
    assert set(services["init"]["depends_on"]) == {"postgres", "redis"}
    for name in ({*AIRFLOW_SERVICES} - {"init", "mail"}) | {*WORKERS}:
        assert services[name]["depends_on"]["init"]["condition"] == "service_completed_successfully", name


# --- files, queues, pools -------------------------------------------------------------------------


def test_every_file_and_volume_exists(services: dict[str, Any]) -> None:
    mounts = [mount for each in services.values() for mount in each.get("volumes", ())]
    assert [
        mount["source"] for mount in mounts if mount["type"] == "bind" and not Path(mount["source"]).is_file()
    ] == []
    declared = set(re.findall(r"^  ([a-z-]+):$", COMPOSE_TEXT.partition("\nvolumes:\n")[2], flags=re.MULTILINE))
    assert declared == {mount["source"] for mount in mounts if mount["type"] == "volume"}
    for each in services.values():
        if "build" in each:
            assert Path(each["build"]["context"], each["build"]["dockerfile"]) == files.DOCKERFILE
            assert ["FROM", "AS", each["build"]["target"]] in [
                ["FROM", *step["value"][1:]] for step in files.dockerfile_instructions() if step["cmd"] == "FROM"
            ]


def test_each_queue_has_a_worker_with_slots_for_all_of_its_dispatchers(services: dict[str, Any]) -> None:
    queues = {name: _option(services[name]["command"], "--queues") for name in WORKERS}
    assert queues == WORKERS
    assert set(queues.values()) == set(get_args(LaneSettings.model_fields["queue"].annotation))
    pools = configured_pools(SETTINGS)
    for name, queue in queues.items():
        slots = sum(pools[lane_pool(lane)] for lane, settings in SETTINGS.lanes.items() if settings.queue == queue)
        # One more, so that another task can run while all lanes are served.
        assert int(_option(services[name]["command"], "--concurrency")) > slots, name


def test_workers_have_time_to_finish_the_longest_job(services: dict[str, Any]) -> None:
    assert {services[name]["stop_grace_period"] for name in WORKERS} == {"11m0s"}


def test_pools_are_created_where_airflow_is_set_up(services: dict[str, Any]) -> None:
    assert services["init"]["command"] == ["python", "-P", "-m", "backline.airflow.bootstrap"]
    source = (ROOT / "plugins" / "backline" / "airflow" / "bootstrap.py").read_text(encoding="utf-8")
    assert "ensure_pools(settings())" in source


# --- commands -------------------------------------------------------------------------------------

# Runs with the image's libraries: Airflow's own parser checks arguments, and a module must be runnable.
_CHECK_SCRIPT = """
import contextlib, importlib.util, io, json, sys
from airflow.cli.cli_parser import get_parser
import airflow.providers.celery.executors.celery_executor  # only the worker's parser imports it late
wrong = []
for argv in json.load(sys.stdin):
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            if argv[0] == "airflow":
                get_parser().parse_args(argv[1:])
            elif argv[:3] == ["python", "-P", "-m"]:
                spec = importlib.util.find_spec(argv[3])
                if spec is not None and spec.submodule_search_locations:
                    spec = importlib.util.find_spec(argv[3] + ".__main__")
                if spec is None or '__name__ == "__main__"' not in spec.loader.get_source(spec.name):
                    raise SystemExit("not a runnable module")
            elif argv[:3] == ["python", "-P", "-c"]:
                compile(argv[3], "-c", "exec")
            else:
                raise SystemExit("not a program of the image")
    except (SystemExit, Exception) as exc:
        wrong.append(" ".join(argv) + ": " + str(exc) + output.getvalue()[-300:])
print(json.dumps(wrong))
"""


def airflow_command_errors(commands: list[list[str]], home: Path) -> list[str]:
    """The errors of these command lines in the image."""
    done = subprocess.run(
        [str(files.ensure_venv(files.IMAGE_REQUIREMENTS) / "python"), "-P", "-c", _CHECK_SCRIPT], input=json.dumps(commands),
        check=True, capture_output=True, text=True,
        env={"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}", "PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(home),
             "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor", "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
             "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
             "AIRFLOW__CELERY__RESULT_BACKEND": "redis://127.0.0.1:1/1"},
    )  # fmt: skip
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_command_and_health_check_can_be_run(services: dict[str, Any], tmp_path: Path) -> None:
    lines = [services[name]["command"] for name in (*AIRFLOW_SERVICES, *WORKERS)]
    lines += [services[name]["healthcheck"]["test"][1:] for name in AIRFLOW_SERVICES if "healthcheck" in services[name]]
    assert len(lines) > 14
    assert airflow_command_errors(lines, tmp_path) == []


def test_an_invalid_command_is_reported(tmp_path: Path) -> None:
    wrong = [
        ["airflow", "celery", "worker", "--lanes", "critical"],
        ["airflow", "webserver"],
        ["python", "-P", "-m", "backline.airflow.prepared"],
        ["python", "-P", "-m", "backline.settings"],
        ["supervisord"],
    ]
    found = airflow_command_errors(wrong, tmp_path)
    assert [line.partition(":")[0] for line in found] == [" ".join(line) for line in wrong]


def test_health_checks_name_components_of_the_probe(services: dict[str, Any]) -> None:
    from backline.airflow.health_probe import HEALTH_KEYS

    asked = [
        each["healthcheck"]["test"][-1] for each in services.values() if "backline.airflow.health_probe" in str(each)
    ]
    assert sorted(asked) == sorted(HEALTH_KEYS)


def _option(command: list[str], name: str) -> str:
    return str(command[command.index(name) + 1])
