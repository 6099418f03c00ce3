"""Migrations: each file once and whole, whoever starts, however often, whatever is killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from emulator.migrations import MigrationRefused, migrate
from emulator.scratch import Database
from emulator.statements import statements
from support.scale import scaled

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "migrations").mkdir()
    write(tmp_path, "1_pets.sql", "create table public.pets (name text);\n")
    write(
        tmp_path,
        "2_more.sql",
        "alter table public.pets add column age int;\ncreate table public.toys (id int);\n",
    )
    return tmp_path


def write(project: Path, name: str, text: str) -> None:
    (project / "migrations" / name).write_text(text)


def run(database: Database, project: Path, **environment: str) -> list[str]:
    said: list[str] = []
    migrate(database.url(), project, environment, said.append)
    return said


def history(database: Database) -> list[tuple[str, str]]:
    return database.rows("select version, name from supabase_migrations.schema_migrations order by version")


def test_files_are_applied_in_order_and_recorded_as_the_cli_does(database: Database, project: Path) -> None:
    assert run(database, project) == ["applied 2 migrations"]

    recorded = database.rows(
        "select version, name, statements from supabase_migrations.schema_migrations order by 1"
    )
    assert recorded == [
        ("1", "pets", ["create table public.pets (name text)"]),
        ("2", "more", ["alter table public.pets add column age int", "create table public.toys (id int)"]),
    ]


def test_a_second_start_changes_nothing(database: Database, project: Path) -> None:
    run(database, project)

    assert run(database, project) == []
    assert len(history(database)) == 2


def test_a_failing_statement_undoes_its_whole_file_and_no_other(database: Database, project: Path) -> None:
    write(project, "3_bad.sql", "create table public.kept_out (id int);\nselect * from public.nowhere;\n")

    with pytest.raises(MigrationRefused, match=r"3_bad\.sql: .*nowhere"):
        run(database, project)

    assert history(database) == [("1", "pets"), ("2", "more")]
    assert database.rows("select to_regclass('public.kept_out')") == [(None,)]


def test_a_database_made_with_another_text_of_a_file_is_refused_in_one_sentence(
    database: Database, project: Path
) -> None:
    run(database, project)
    write(project, "1_pets.sql", "create table public.pets (name text not null);\n")

    with pytest.raises(
        MigrationRefused, match=r"^1_pets\.sql is not what this database was made with: [^\n]+$"
    ):
        run(database, project)

    assert len(history(database)) == 2


def test_a_late_file_is_refused(database: Database, project: Path) -> None:
    run(database, project)
    write(project, "1_later.sql", "select 1;\n")
    (project / "migrations" / "1_later.sql").rename(project / "migrations" / "0_later.sql")

    with pytest.raises(MigrationRefused, match="later version"):
        run(database, project)


def test_a_database_that_knows_more_than_the_files_is_refused(database: Database, project: Path) -> None:
    run(database, project)
    (project / "migrations" / "2_more.sql").unlink()

    with pytest.raises(MigrationRefused, match="not in migrations/: 2"):
        run(database, project)


def test_two_starters_at_once_apply_each_file_once(database: Database, project: Path) -> None:
    write(project, "3_slow.sql", "select pg_sleep(0.3);\ncreate table public.slow (id int);\n")
    said: list[list[str]] = []

    starters = [threading.Thread(target=lambda: said.append(run(database, project))) for _ in range(4)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()

    assert sorted(said) == [[], [], [], ["applied 3 migrations"]]


KILLS = scaled(5, 50)


@pytest.mark.parametrize("seconds", [round(0.4 * kill / KILLS, 3) for kill in range(KILLS)])
def test_a_killed_starter_leaves_all_or_nothing(database: Database, project: Path, seconds: float) -> None:
    write(
        project,
        "3_slow.sql",
        "create table public.a (id int);\nselect pg_sleep(0.2);\ncreate table public.b (id int);\n",
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, database.url(), str(project)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "supabase")},
        stdout=subprocess.PIPE,
    )
    assert starter.stdout is not None
    with starter.stdout:
        starter.stdout.readline()
        time.sleep(seconds)
        starter.send_signal(signal.SIGKILL)
        starter.wait()

    run(database, project)

    assert history(database) == [("1", "pets"), ("2", "more"), ("3", "slow")]
    assert database.rows("select count(*) from pg_tables where schemaname = 'public'") == [(4,)]


STARTER = """
import sys
from pathlib import Path
from emulator.migrations import migrate
print("begins", flush=True)
migrate(sys.argv[1], Path(sys.argv[2]), {}, print)
"""


def test_a_migration_waits_ten_seconds_for_a_lock_and_no_longer(
    database: Database, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulator.migrations.LOCK_TIMEOUT", "100ms")
    run(database, project)
    write(project, "3_lock.sql", "alter table public.pets add column owner text;\n")

    with psycopg.connect(database.url()) as reader:
        reader.execute("select * from public.pets")
        with pytest.raises(MigrationRefused, match="lock timeout"):
            run(database, project)

    assert run(database, project) == ["applied 1 migration"]


def test_an_index_can_be_made_concurrently_in_a_file_of_its_own(database: Database, project: Path) -> None:
    write(
        project,
        "3_index.sql",
        "-- Large table.\ncreate index concurrently pets_name_idx on public.pets (name);\n",
    )

    run(database, project)

    assert history(database)[-1] == ("3", "index")


def test_settings_of_one_file_do_not_reach_the_next(database: Database, project: Path) -> None:
    write(project, "3_sets.sql", "set search_path = '';\nset role anon;\n")
    write(project, "4_after.sql", "create table after_all (id int);\n")

    run(database, project)

    assert database.rows("select to_regclass('public.after_all') is not null") == [(True,)]


def test_secrets_of_the_config_are_in_the_vault_before_the_first_migration(
    database: Database, project: Path
) -> None:
    (project / "config.toml").write_text('[db.vault]\nurl = "env(URL)"\n')
    write(
        project,
        "3_uses.sql",
        "create table public.seen as select decrypted_secret from vault.decrypted_secrets;\n",
    )

    run(database, project, URL="http://one")
    run(database, project, URL="http://two")

    assert database.rows("select * from public.seen") == [("http://one",)]
    assert database.rows("select name, decrypted_secret from vault.decrypted_secrets") == [
        ("url", "http://two")
    ]


def test_every_seed_that_the_configuration_names_is_run_in_order(database: Database, project: Path) -> None:
    (project / "config.toml").write_text('[db.seed]\nsql_paths = ["./seed.sql", "./sites/*.sql"]\n')
    (project / "seed.sql").write_text("insert into public.pets (name) values ('first');\n")
    run(database, project)
    (project / "sites").mkdir()
    for name in ("b", "a"):
        (project / "sites" / f"{name}.sql").write_text(f"insert into public.pets (name) values ('{name}');\n")

    run(database, project)
    run(database, project)

    assert database.rows("select name from public.pets") == [("first",), ("a",), ("b",)]
    recorded = database.rows("select path from supabase_migrations.seed_files order by path")
    assert recorded == [("supabase/seed.sql",), ("supabase/sites/a.sql",), ("supabase/sites/b.sql",)]


def test_the_seed_runs_once_and_a_changed_one_is_named(database: Database, project: Path) -> None:
    seed = project / "seed.sql"
    seed.write_text("insert into public.pets (name) values ('a;b');\n")
    run(database, project)
    seed.write_text("insert into public.pets (name) values ('c');\n")

    assert run(database, project) == [
        "warning: seed.sql has changed and is not run again; `make reset` begins anew"
    ]
    assert run(database, project) == []
    assert database.rows("select name from public.pets") == [("a;b",)]


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("select 1;select 2", ["select 1", "select 2"]),
        (
            "select 'a;b'; select $$c;d$$; select $x$ $$;$$ $x$",
            ["select 'a;b'", "select $$c;d$$", "select $x$ $$;$$ $x$"],
        ),
        (r"select E'\';'; select 1", [r"select E'\';'", "select 1"]),
        ('select 1 as "a;b"; select 2', ['select 1 as "a;b"', "select 2"]),
        (
            "-- one; two\nselect 1; /* a; /* b; */ c; */ select 2",
            ["-- one; two\nselect 1", "/* a; /* b; */ c; */ select 2"],
        ),
        ("create rule r as on insert to t do (select 1; select 2); select 3", None),
        (
            "create function f() returns int begin atomic select case when true then 1 end; select 2; end; select 3",
            None,
        ),
        ("select a$b$c; select 1", ["select a$b$c", "select 1"]),
        ("select '''';;\n;select $1", ["select ''''", "select $1"]),
    ],
)
def test_a_script_is_cut_at_the_semicolons_that_end_statements(script: str, parts: list[str] | None) -> None:
    expected = parts or [script.rpartition("; ")[0], script.rpartition("; ")[2]]

    assert statements(script) == expected


@pytest.mark.skipif(
    shutil.which("supabase") is None, reason="needs the Supabase CLI: npm install -g supabase@3.1.0"
)
class TestTheCli:
    """What it pushes and what the hub applies is the same, down to the history."""

    def push(self, database: Database, project: Path) -> str:
        supabase = project / "supabase"
        supabase.mkdir(exist_ok=True)
        (supabase / "config.toml").write_text('project_id = "test"\n')
        if not (supabase / "migrations").exists():
            (supabase / "migrations").symlink_to(project / "migrations")
        done = subprocess.run(
            ["supabase", "db", "push", "--remote", database.url(), "--yes"],
            cwd=project,
            env={**os.environ, "SUPABASE_TELEMETRY_DISABLED": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def test_finds_nothing_to_do_after_the_hub(self, database: Database, project: Path) -> None:
        run(database, project)

        assert "up to date" in self.push(database, project)

    def test_leaves_nothing_to_do_for_the_hub(self, database: Database, project: Path) -> None:
        for file in (ROOT / "migrations").glob("*.sql"):
            shutil.copy(file, project / "migrations")

        self.push(database, project)

        assert run(database, project) == []
