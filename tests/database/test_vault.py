"""Vault's stand-in: secrets are ciphertext in the table, and only postgres reads them."""

import psycopg
import pytest
from emulator.scratch import Database


def test_a_secret_comes_back_as_it_went_in(database: Database) -> None:
    database.rows("select vault.create_secret('grün; ''quoted''', 'colour', 'for tests')")

    assert database.rows("select name, description, decrypted_secret from vault.decrypted_secrets") == [
        ("colour", "for tests", "grün; 'quoted'")
    ]


def test_the_table_holds_ciphertext(database: Database) -> None:
    database.rows("select vault.create_secret('plain words', 'a'), vault.create_secret('plain words', 'b')")

    [(first,), (second,)] = database.rows("select secret from vault.secrets")

    assert "plain" not in first
    assert first != second


def test_a_ciphertext_moved_to_another_row_does_not_decrypt(database: Database) -> None:
    database.rows("select vault.create_secret('mine', 'a'), vault.create_secret('yours', 'b')")
    database.rows(
        "update vault.secrets set secret = (select secret from vault.secrets where name = 'a') where name = 'b'",
        role="supabase_admin",
    )

    with pytest.raises(psycopg.Error, match="Wrong key"):
        database.rows("select decrypted_secret from vault.decrypted_secrets where name = 'b'")


def test_a_secret_can_be_changed(database: Database) -> None:
    [(id,)] = database.rows("select vault.create_secret('old', 'name')")

    database.rows("select vault.update_secret(%s, 'new')", id)

    assert database.rows("select name, decrypted_secret from vault.decrypted_secrets") == [("name", "new")]


def test_a_name_is_given_once(database: Database) -> None:
    database.rows("select vault.create_secret('one', 'name')")

    with pytest.raises(psycopg.errors.UniqueViolation):
        database.rows("select vault.create_secret('two', 'name')")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize(
    "statement",
    [
        "select * from vault.decrypted_secrets",
        "select * from vault.secrets",
        "select vault.create_secret('mine')",
        "select vault._passphrase('')",
    ],
)
def test_roles_of_the_api_reach_nothing(database: Database, role: str, statement: str) -> None:
    with psycopg.connect(database.url()) as connection:
        connection.execute(f"set role {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "insert into vault.secrets (secret) values ('x')",
        "update vault.secrets set description = 'x'",
        "select vault._passphrase('')",
        "select pg_read_file('vault.key')",
    ],
)
def test_postgres_neither_writes_the_table_nor_reads_the_key(database: Database, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.rows(statement)
