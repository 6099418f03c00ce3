"""Tokens that nobody may accept, made from a genuine one and, where it helps, with the hub's own key."""

import base64
import hmac
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from emulator.state import Keys
from jose import jws
from jose.backends import ECKey

PUBLIC = ("kty", "crv", "x", "y")


class Forger:
    def __init__(self, genuine: str, keys: Keys) -> None:
        self.genuine = genuine
        self.header, self.payload, self.signature = genuine.split(".")
        self.claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(self.payload + "=="))
        self.publishable_key = keys.publishable_key.encode()
        self.public_key = {name: keys.signing_key[name] for name in PUBLIC}
        self._key = keys.signing_key
        self._stranger = Keys.create().signing_key

    def signed(self, *without: str, **changes: Any) -> str:
        """With the hub's own key, but other claims."""
        claims = {name: value for name, value in (self.claims | changes).items() if name not in without}
        return self.signed_as_it_is(json.dumps(claims).encode())

    def signed_as_it_is(self, payload: bytes, **header: Any) -> str:
        return str(jws.sign(payload, self._key, {"kid": self._key["kid"]} | header, "ES256"))

    def signed_by_a_stranger(self, **header: Any) -> str:
        return str(jws.sign(self.claims, self._stranger, {"kid": self._key["kid"]} | header, "ES256"))

    def with_strangers_key_inside(self) -> str:
        return self.signed_by_a_stranger(jwk={name: self._stranger[name] for name in PUBLIC})

    def with_header(self, signature: str | None = None, **header: Any) -> str:
        header = {"kid": self._key["kid"], "typ": "JWT"} | header
        return ".".join((encoded(header), self.payload, self.signature if signature is None else signature))

    def with_mac(self, secret: bytes, algorithm: str = "HS256") -> str:
        unsigned = self.with_header("", alg=algorithm).rstrip(".")
        return f"{unsigned}.{encoded(hmac.digest(secret, unsigned.encode(), algorithm.replace('HS', 'sha')))}"

    def with_claims_after_signing(self, **changes: Any) -> str:
        return ".".join((self.header, encoded(self.claims | changes), self.signature))

    def public_key_as(self, encoding: Encoding) -> bytes:
        key = ECKey(self.public_key, "ES256").prepared_key
        return bytes(key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


FORGERIES: dict[str, Callable[[Forger], str]] = {
    "algorithm none": lambda it: it.with_header("", alg="none"),
    "algorithm nOnE": lambda it: it.with_header("", alg="nOnE"),
    "algorithm none with the signature": lambda it: it.with_header(alg="none"),
    "no algorithm": lambda it: it.with_header(),
    "algorithm as a list": lambda it: it.with_header(alg=["ES256"]),
    "HS256 with the public key as PEM": lambda it: it.with_mac(it.public_key_as(Encoding.PEM)),
    "HS256 with the public key as DER": lambda it: it.with_mac(it.public_key_as(Encoding.DER)),
    "HS256 with the public key as JWK": lambda it: it.with_mac(json.dumps(it.public_key).encode()),
    "HS256 with the publishable key": lambda it: it.with_mac(it.publishable_key),
    "HS512 with an empty secret": lambda it: it.with_mac(b"", "HS512"),
    "a stranger's key under our kid": lambda it: it.signed_by_a_stranger(),
    "a stranger's key under its own kid": lambda it: it.signed_by_a_stranger(kid="stranger"),
    "a stranger's key brought along": lambda it: it.with_strangers_key_inside(),
    "a stranger's key to be fetched": lambda it: it.signed_by_a_stranger(jku="http://127.0.0.1:1/jwks.json"),
    "kid null": lambda it: it.signed_as_it_is(json.dumps(it.claims).encode(), kid=None),
    "kid of a file": lambda it: it.signed_as_it_is(json.dumps(it.claims).encode(), kid="../../dev/null"),
    "service_role after signing": lambda it: it.with_claims_after_signing(role="service_role"),
    "another person after signing": lambda it: it.with_claims_after_signing(sub=str(uuid.uuid4())),
    "signature cut off": lambda it: f"{it.header}.{it.payload}.",
    "signature of zeros": lambda it: f"{it.header}.{it.payload}.{encoded(bytes(64))}",
    "expired": lambda it: it.signed(exp=int(time.time()) - 60),
    "no expiry": lambda it: it.signed("exp"),
    "expiry in words": lambda it: it.signed(exp="tomorrow"),
    "not valid yet": lambda it: it.signed(nbf=int(time.time()) + 300),
    "another project's issuer": lambda it: it.signed(iss="https://evil.example/auth/v1"),
    "no issuer": lambda it: it.signed("iss"),
    "another audience": lambda it: it.signed(aud="somebody else"),
    "no audience": lambda it: it.signed("aud"),
    "role postgres": lambda it: it.signed(role="postgres"),
    "role as a list": lambda it: it.signed(role=["authenticated"]),
    "claims as a list": lambda it: it.signed_as_it_is(b"[]"),
    "claims that are no JSON": lambda it: it.signed_as_it_is(b"{"),
    "header that is no JSON": lambda it: f"{encoded(b'{')}.{it.payload}.{it.signature}",
    "header five thousand deep": lambda it: f"{encoded(b'[' * 5000)}.{it.payload}.{it.signature}",
    "twenty thousand characters": lambda it: it.genuine + "A" * 20_000,
    "two parts": lambda it: f"{it.header}.{it.payload}",
    "five parts": lambda it: f"{it.genuine}.{it.payload}.{it.signature}",
    "three dots": lambda it: "..",
}
