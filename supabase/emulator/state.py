"""The state folder of one hub: its keys, the paths of its files, and the lock that keeps a second hub out.

Keys are made at the first start and stay. Nothing in the repository is a default key, so a hub that
somebody can reach by accident still has secrets of its own.
"""

import base64
import fcntl
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self, get_origin

SITES = ("prime", "akf", "cleanjet")
ROLES = ("admin", "operator", "closer", "viewer")
DATABASE_ROLES = ("supabase_admin", "postgres", "authenticator", "supabase_auth_admin", "hub_service")

BACK = "Put the right one back from a backup; `make reset` begins anew, without the data."
ANOTHER = "Remove it, and the next start makes another."


class StateInUse(Exception):
    """Another hub runs on this state folder."""


class StateUnusable(Exception):
    """No hub can run on this folder as it is; the message says why, in a sentence for its operator."""


@dataclass(frozen=True)
class Keys:
    publishable_key: str
    secret_key: str
    hub_invoke_secret: str
    vault_key: str
    signing_key: dict[str, str]  # private ES256 JWK with its kid
    site_secrets: dict[str, str]  # by the site's slug
    role_passwords: dict[str, str]  # by database role
    passwords: dict[str, str]  # of users, by role: admin, operator, closer, viewer

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        file = state_dir / "keys.json"
        mend = BACK if os.path.lexists(state_dir / "postgres") else ANOTHER
        try:
            stored = json.loads(file.read_text())
        except ValueError as error:
            raise StateUnusable(f"{file} cannot be read ({error}). {mend}") from error
        expected = {field.name: get_origin(field.type) or field.type for field in fields(cls)}
        found = {name: type(value) for name, value in stored.items()} if isinstance(stored, dict) else {}
        if wrong := sorted(name for name, _ in found.items() ^ expected.items()):
            names = ", ".join(dict.fromkeys(wrong))
            raise StateUnusable(f"{file} does not hold a hub's keys ({names}). {mend}")
        return cls(**stored)

    @classmethod
    def create(cls) -> Self:
        return cls(
            publishable_key=f"sb_publishable_{secrets.token_hex(16)}",
            secret_key=f"sb_secret_{secrets.token_hex(24)}",
            hub_invoke_secret=secrets.token_hex(32),
            vault_key=secrets.token_hex(32),
            signing_key=_signing_key(),
            site_secrets={site: f"whs_{site}_{secrets.token_hex(20)}" for site in SITES},
            role_passwords={role: secrets.token_hex(20) for role in DATABASE_ROLES},
            passwords={role: _readable_password() for role in ROLES},
        )


def secret_name(site: str) -> str:
    """The name of a site's secret in hub.env."""
    return f"{site.upper().replace('-', '_')}_WEBHOOK_SECRET"


def email(role: str) -> str:
    return f"{role}@example.com"


@dataclass(frozen=True)
class State:
    folder: Path

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def environment(self) -> Path:
        return self.folder / "hub.env"

    @property
    def port_file(self) -> Path:
        return self.folder / "postgres.port"

    @property
    def keys(self) -> Keys:
        return Keys.load(self.folder)

    def add_site_secret(self, site: str, secret: str) -> None:
        """Keep a site's secret, so that the next start knows it as well."""
        keys = self.keys
        keys.site_secrets[site] = secret
        write_private(self.folder / "keys.json", json.dumps(asdict(keys), indent=2))

    @property
    def postgres_port(self) -> int:
        return int(self.port_file.read_text())

    def database_url(self, role: str, database: str = "postgres") -> str:
        password = self.keys.role_passwords[role]
        return f"postgresql://{role}:{password}@127.0.0.1:{self.postgres_port}/{database}?sslmode=disable"

    def open(self) -> None:
        """Make the folder and, once, the keys, if they are missing."""
        self.check()
        self.logs.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "keys.json").exists():
            write_private(self.folder / "keys.json", json.dumps(asdict(Keys.create()), indent=2))

    def check(self) -> None:
        """Refuse a folder that no hub can run on, before anything is written there."""
        if self.folder.exists() and not self.folder.is_dir():
            raise StateUnusable(f"{self.folder} is a file; STATE names a folder.")
        file = self.folder / "keys.json"
        if os.path.lexists(file):
            vault_key = self.folder / "postgres" / "vault.key"
            if vault_key.exists() and vault_key.read_text() not in ("", self.keys.vault_key):
                raise StateUnusable(f"{file} is not the one that the database here was made with. {BACK}")
        elif os.path.lexists(self.folder / "postgres"):
            # New keys would open neither the database nor the secrets in its vault.
            raise StateUnusable(f"{file} is missing, and the database here was made with it. {BACK}")

    def lock(self) -> None:
        """Hold the folder until this process ends; the kernel then lets go of it in any case."""
        # A hub that was killed a moment ago may still be going down, and a reset removes the file.
        for _ in range(20):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                os.close(handle)
                time.sleep(0.05)
        raise StateInUse(self.folder)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        error.filename = str(path)
        raise


def _signing_key() -> dict[str, str]:
    # cryptography is slow to import, and only a first start makes keys.
    from cryptography.hazmat.primitives.asymmetric import ec

    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "alg": "ES256",
        "use": "sig",
        "kid": secrets.token_hex(16),
        "x": _base64url(numbers.public_numbers.x),
        "y": _base64url(numbers.public_numbers.y),
        "d": _base64url(numbers.private_value),
    }


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()


def _readable_password() -> str:
    """Four groups that can be read aloud and typed: no l, 1, o, 0."""
    letters = "abcdefghijkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4))
