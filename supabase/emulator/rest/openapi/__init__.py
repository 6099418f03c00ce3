"""The root's OpenAPI description: the parts of a schema that the asking role may use, as PostgREST writes it."""

import json

from emulator.rest.catalog import Catalog
from emulator.rest.database import Database, Settings
from emulator.rest.openapi import usable
from emulator.rest.openapi.document import document


class Descriptions:
    """The descriptions, one for each role and schema, until the catalog is read again."""

    def __init__(self, database: Database, public_url: str) -> None:
        self._database = database
        self._public_url = public_url
        self._catalog: Catalog | None = None
        self._written: dict[tuple[str, str], bytes] = {}

    async def of(self, schema: str, catalog: Catalog, role: str, settings: Settings) -> bytes:
        if catalog is not self._catalog:
            self._catalog, self._written = catalog, {}
        written = self._written
        if (role, schema) not in written:
            async with self._database.transaction(settings, read_only=True, isolation=None) as transaction:
                found = await usable.read(transaction, schema, catalog)
            described = document(found, catalog, self._public_url)
            written[role, schema] = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        return written[role, schema]


__all__ = ["Descriptions"]
