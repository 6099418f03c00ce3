"""Proofs as a site's own code would write them, from the README and the specification alone."""

import base64
import hashlib
import hmac
import secrets
import time
import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
from support.hubs import Hub


@cache
def client(source: str = "127.0.0.1") -> httpx.Client:
    """A client at an address of this machine."""
    limits = httpx.Limits(max_connections=64)
    return httpx.Client(timeout=30, transport=httpx.HTTPTransport(local_address=source, limits=limits))


@dataclass
class Sender:
    """A site of a hub, with the secret by which it proves itself."""

    hub: Hub
    slug: str
    kind: str
    secret: str

    @property
    def url(self) -> str:
        return f"{self.hub.url}/functions/v1/ingest-{self.slug}"

    @property
    def origin(self) -> str:
        return str(
            self.hub.rows("select allowed_origins[1] from public.sites where slug = %s", self.slug)[0][0]
        )

    def headers(self, body: bytes, **changed: Any) -> dict[str, Any]:
        if self.kind == "static":
            return {"x-webhook-secret": self.secret}
        if self.kind == "page":
            return {"origin": self.origin, "x-page-token": page_token(self.secret, self.slug, self.origin)}
        return (standard if self.kind == "standard" else hub_signature)(self.secret, body, **changed)

    def post(self, body: bytes, headers: Any = None, source: str = "127.0.0.1") -> httpx.Response:
        sent = self.headers(body) if headers is None else headers
        fields = sent.items() if isinstance(sent, dict) else sent
        json_type = (b"content-type", b"application/json")
        return client(source).post(self.url, content=body, headers=[*fields, json_type])


def standard(
    secret: str, body: bytes, message_id: str | None = None, at: float | None = None, names: str = "webhook"
) -> dict[str, Any]:
    """https://www.standardwebhooks.com: base64 of the HMAC of id.timestamp.body by the decoded key."""
    message_id = message_id or f"msg_{uuid.uuid4().hex}"
    timestamp = str(int(at or time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(mac).decode()
    return {f"{names}-id": message_id, f"{names}-timestamp": timestamp, f"{names}-signature": signature}


def hub_signature(secret: str, body: bytes, at: float | None = None) -> dict[str, Any]:
    timestamp = str(int(at or time.time()))
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"x-hub-timestamp": timestamp, "x-hub-signature": f"sha256={mac}"}


def page_token(key: str, site: str, origin: str, expires: int | None = None) -> str:
    expires = int(time.time()) + 600 if expires is None else expires
    mac = hmac.new(key.encode(), f"page-token\n{site}\n{origin}\n{expires}".encode(), hashlib.sha256).digest()
    return f"{expires}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def new_secret(kind: str) -> str:
    if kind == "standard":
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(32)


def give_secret(hub: Hub, slug: str, kind: str, secret: str, old_valid_for: str = "1 hour") -> Sender:
    """The site has the secret, and its function knows it."""
    hub.sql(
        "select private.set_site_secret(%s, %s, %s::interval, %s::public.secret_kind)",
        slug,
        secret,
        old_valid_for,
        kind,
    )
    site = Sender(hub, slug, kind, secret)
    # Whatever is no form shows that the door is open, and leaves nothing behind.
    assert hub.until(lambda: site.post(b"[]").status_code == 422)
    return site


def page_key(hub: Hub, slug: str) -> str:
    query = (
        "select private.plain_key(vault_id) from private.site_secrets join public.sites on sites.id = site_id"
        " where slug = %s and kind = 'page' order by valid_from desc limit 1"
    )
    return str(hub.rows(query, slug)[0][0])
