"""supabase/schemas says what the database is: once, storey upon storey, and the migrations make just that."""

import re
import shutil
from pathlib import Path

import pytest
from emulator import schemas
from emulator.migrations import MigrationRefused
from emulator.statements import statements
from operate.differences import different
from operate.make_migration import both, foundation, hashes, seal, write

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "supabase"
STOREYS = [
    "ground",
    "tenancy",
    "sites",
    "contacts",
    "events",
    "agents",
    "work",
    "decisions",
    "intake",
    "watch",
    "catalogue",
]
CREATED = re.compile(r"create (?:unlogged |unique )*(function|view|table|type|index|trigger) (\S+)")
# Switches of a table or of everything that is made later: no object is changed by them.
SWITCHES = re.compile(r"alter (table \S+ (enable|force) row level security|default privileges |role )")
WITHOUT_TEXT = re.compile(r"\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'|--[^\n]*", re.DOTALL)


@pytest.fixture
def files() -> list[Path]:
    return schemas.files(PROJECT)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project whose history begins with what the schemas say now."""
    (tmp_path / "migrations").mkdir()
    shutil.copytree(PROJECT / "schemas", tmp_path / "schemas")
    shutil.copy(PROJECT / "config.toml", tmp_path)
    (tmp_path / "migrations" / "20260101000000_foundation.sql").write_text(foundation(tmp_path))
    return tmp_path


def change(project: Path, file: str, before: str, after: str) -> None:
    path = project / "schemas" / file
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def next_migration(project: Path, name: str) -> str:
    assert "Wrote" in write(project, name)
    [path] = (project / "migrations").glob(f"*_{name}.sql")
    return path.read_text()


def test_the_migrations_make_what_the_schemas_say() -> None:
    migrated, declared = both(PROJECT)

    assert [str(name) for name in different(migrated, declared)] == []


def test_every_file_is_loaded_and_its_storey_is_a_known_one(files: list[Path]) -> None:
    assert sorted(files) == sorted((PROJECT / "schemas").rglob("*.sql"))
    assert list(dict.fromkeys(file.parent.name for file in files)) == STOREYS


def test_each_name_is_created_once_and_nothing_is_changed_afterwards(files: list[Path]) -> None:
    created: dict[str, str] = {}
    for file in files:
        for statement in (WITHOUT_TEXT.sub("", text).strip() for text in statements(file.read_text())):
            assert not re.match(r"drop |create or replace ", statement), f"{file}: {statement[:80]}"
            assert not statement.startswith("alter ") or SWITCHES.match(statement), (
                f"{file}: {statement[:80]}"
            )
            if made := CREATED.match(statement):
                # What follows the name tells overloads apart, and triggers of several tables.
                name = re.sub(r"\s+", " ", statement)[:300]
                assert name not in created, f"{made[2]} is created in {created[name]} and {file}"
                created[name] = str(file)


def test_the_first_line_of_a_file_says_what_it_is(files: list[Path]) -> None:
    assert [file for file in files if not re.match(r"-- [A-Z].*[^,\s]\n", file.read_text())] == []


def test_every_security_definer_has_its_sentence(files: list[Path]) -> None:
    unexplained = [
        statement[:120]
        for file in files
        for statement in statements(file.read_text())
        if re.search(r"^language \w+.* security definer\b", statement, re.MULTILINE)
        and "-- security definer:" not in statement
    ]

    assert unexplained == []


def test_functions_speak_one_dialect(files: list[Path]) -> None:
    assert [file for file in files if "#variable_conflict" in file.read_text()] == []


def test_a_changed_function_becomes_a_migration_that_makes_the_two_equal(project: Path) -> None:
    change(project, "ground/ids.sql", "A version 7 UUID of a time", "A version 7 UUID of any time")
    change(
        project,
        "contacts/names.sql",
        "return words <@ other_words or",
        "return other_words = words or words <@ other_words or",
    )
    assert {name.type for name in different(*both(project))} == {"FUNCTION", "COMMENT"}

    text = next_migration(project, "names")

    assert "create or replace function private.names_agree(one text, other text)" in text
    assert text.count("create ") == 1
    assert different(*both(project)) == []


def test_views_triggers_policies_rights_and_rows_are_written_as_statements(project: Path) -> None:
    change(
        project,
        "contacts/customers.sql",
        "where leads.stage = 'won'",
        "where leads.stage = 'won' and leads.folded_into is null",
    )
    change(
        project,
        "contacts/leads.sql",
        "create trigger leads_touch before update on",
        "create trigger leads_touch before insert or update on",
    )
    change(
        project,
        "tenancy/memberships.sql",
        "(org_id in (select private.my_orgs('memberships.read')))",
        "(user_id = (select auth.uid()))",
    )
    change(project, "tenancy/memberships.sql", "to authenticated, service_role", "to authenticated")
    change(project, "catalogue/schedules.sql", "'20 seconds'", "'30 seconds'")
    change(project, "catalogue/event_types.sql", "'Somebody rang.'", "'Somebody has rung.'")

    text = next_migration(project, "many")

    for written in (
        "create or replace view public.customers",
        "create or replace trigger leads_touch",
        'drop policy "members see who belongs to their organizations" on public.memberships;\ncreate policy',
        "REVOKE SELECT ON TABLE public.memberships FROM service_role;",
        "on conflict (name) do update",
        "select cron.schedule('watch', '30 seconds'",
    ):
        assert written in text
    assert different(*both(project)) == []


def test_a_function_that_answers_something_else_is_made_anew_with_its_rights(project: Path) -> None:
    change(
        project,
        "sites/refusals.sql",
        "returns jsonb\nlanguage sql security definer set search_path = ''\nas $$\n  -- In order",
        "returns json\nlanguage sql security definer set search_path = ''\nas $$\n  -- In order",
    )
    change(project, "sites/refusals.sql", "select 'true'::jsonb;", "select 'true'::json;")

    next_migration(project, "answers")

    assert different(*both(project)) == []


def test_a_trigger_goes_before_the_function_that_it_calls(project: Path) -> None:
    change(
        project,
        "sites/sites.sql",
        "create function private.check_site_hours()",
        "create function private.check_row()",
    )
    change(
        project,
        "sites/sites.sql",
        "on function private.check_site_hours is",
        "on function private.check_row is",
    )
    change(project, "sites/sites.sql", "create trigger sites_hours", "create trigger sites_rows")
    change(
        project, "sites/sites.sql", "function private.check_site_hours();", "function private.check_row();"
    )

    next_migration(project, "rows")

    assert different(*both(project)) == []


def test_a_new_function_may_ask_one_that_comes_after_it(project: Path) -> None:
    (project / "schemas" / "tenancy" / "asking.sql").write_text(
        "-- Asking.\n\ncreate function private.z_asked()\nreturns integer\nlanguage sql immutable set search_path = ''\n"
        "as $$\n  select 1;\n$$;\n\ncreate function private.a_asks()\nreturns integer\nlanguage sql immutable\n"
        "set search_path = ''\nas $$\n  select private.z_asked();\n$$;\n"
    )

    next_migration(project, "asking")

    assert different(*both(project)) == []


def test_a_table_is_changed_by_hand_and_until_then_nothing_is_sealed(project: Path) -> None:
    change(
        project,
        "tenancy/system_controls.sql",
        "  updated_at timestamptz not null default now(),",
        "  updated_at timestamptz not null default now(),\n  reason     text,",
    )

    text = next_migration(project, "reasons")

    assert (
        "-- By hand: TABLE public.system_controls\n-- It is:\n--   CREATE TABLE public.system_controls ("
        in text
    )
    assert re.search(r"-- It shall be:\n(--.*\n)+--       reason text", text)
    with pytest.raises(MigrationRefused, match="wait to be written by hand"):
        seal(project)
    [path] = (project / "migrations").glob("*_reasons.sql")
    path.write_text("-- Why.\n\nalter table public.system_controls add column reason text;\n")
    assert different(*both(project)) == []
    assert "reasons.sql" in seal(project)


def test_a_new_table_is_written_whole(project: Path) -> None:
    (project / "schemas" / "tenancy" / "holidays.sql").write_text(
        "-- Holidays.\n\ncreate table public.holidays (\n  day date primary key\n);\n"
        "alter table public.holidays enable row level security, force row level security;\n"
        "comment on table public.holidays is 'Days off.';\n\n"
        "create function private.days_off()\nreturns bigint\nlanguage sql stable set search_path = ''\nas $$\n"
        "  select count(*) from public.holidays;\n$$;\n"
    )

    text = next_migration(project, "add_holidays")

    assert "create table public.holidays (\n  day date primary key\n);" in text
    assert "-- By hand:" not in text
    assert different(*both(project)) == []


def test_nothing_is_written_when_nothing_differs(project: Path) -> None:
    assert "nothing to write" in write(project, "nothing")
    with pytest.raises(MigrationRefused, match="make migration NAME="):
        write(project, "Not A Name")


def test_a_sealed_file_is_not_sealed_again_with_another_text(project: Path) -> None:
    seal(project)
    [path] = (project / "migrations").glob("*.sql")
    path.write_text(path.read_text() + "select 1;\n")

    with pytest.raises(MigrationRefused, match="belongs in a new migration"):
        seal(project)


def test_every_migration_is_sealed_as_it_is() -> None:
    before = (PROJECT / "migrations.sha256").read_text()

    assert "nothing new" in seal(PROJECT)
    assert (PROJECT / "migrations.sha256").read_text() == before
    assert set(hashes(PROJECT)) == {path.name for path in (PROJECT / "migrations").glob("*.sql")}
