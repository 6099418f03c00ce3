"""/rest/v1: PostgREST's wire behaviour over the hub's own database.

Every request is one transaction in the caller's role, so Postgres decides what anyone may see or change.
A feature that is not supported answers 501 with its name.
"""

from emulator.rest.asked import Configuration
from emulator.rest.server import Authenticate, Rest


def create_app(
    database_url: str,
    authenticate: Authenticate,
    *,
    authenticate_at_root: Authenticate | None = None,
    schemas: tuple[str, ...] = ("public",),
    extra_search_path: tuple[str, ...] = ("public", "extensions"),
    anon_role: str = "anon",
    max_rows: int = 1000,
    plan_enabled: bool = False,
    tx_end_override: bool = False,
    public_url: str = "http://0.0.0.0:3000",
) -> Rest:
    """An ASGI app for the path /rest/v1; it connects at its first request."""
    configuration = Configuration(
        schemas, extra_search_path, anon_role, max_rows, plan_enabled, tx_end_override, public_url
    )
    return Rest(database_url, authenticate, authenticate_at_root or authenticate, configuration)


__all__ = ["Rest", "create_app"]
