"""Standard Webhooks (standardwebhooks.com), the part that sender and receiver both compute."""

import base64
import hmac

PREFIX = "whsec_"


def key_of(secret: str) -> bytes:
    """The key of a secret as it is handed out: whsec_ and the key in base64."""
    return base64.b64decode(secret.removeprefix(PREFIX))


def signature(key: bytes, message_id: bytes, timestamp: bytes, body: bytes) -> bytes:
    mac = hmac.digest(key, b".".join((message_id, timestamp, body)), "sha256")
    return b"v1," + base64.b64encode(mac)
