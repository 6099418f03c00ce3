"""Snippets to paste into a site so that its forms reach the hub: a signing curl, a page's form, n8n nodes.

A server signs as Standard Webhooks says; a page holds no secret and asks for a token.
"""

import json
import shlex
import time
from dataclasses import dataclass
from typing import Any

from shared import standard_webhooks

CURL = """\
secret={{secret}}
body={{body}}
id="msg_$(openssl rand -hex 16)"
time="$(date +%s)"
key="$(printf %s "${secret#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \\n')"
signature="$(printf %s "$id.$time.$body" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)"
curl -i {{url}} \\
  -H "webhook-id: $id" -H "webhook-timestamp: $time" -H "webhook-signature: v1,$signature" \\
  --data-raw "$body" -H 'Content-Type: application/json'"""

HTML = """\
<form id="enquiry">
  <input name="name" placeholder="Name" required>
  <input name="email" type="email" placeholder="E-mail">
  <input name="phone" type="tel" placeholder="Phone">
  <textarea name="message" placeholder="What can we do for you?"></textarea>
  <input name="company_website" tabindex="-1" autocomplete="off" style="display: none">
  <button>Send</button>
</form>
<script>
  const hub = "{{functions}}";
  async function send(form) {
    form.dataset.key ??= crypto.randomUUID();
    const { token } = await (await fetch(`${hub}/page-token?site={{slug}}`)).json();
    return await fetch(`${hub}/ingest-{{slug}}`, {
      method: "POST",
      headers: {"Content-Type": "application/json", "X-Page-Token": token, "Idempotency-Key": form.dataset.key},
      body: JSON.stringify(Object.fromEntries(new FormData(form))),
    });
  }
  document.getElementById("enquiry").addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target;
    const answer = await send(form).catch(() => ({ ok: false }));
    if (answer.ok) { delete form.dataset.key; form.reset(); }
    alert(answer.ok ? "Thank you, we will be in touch." : "That did not work, please try again.");
  });
</script>"""

# An expression of n8n. An execution that is retried has the same id.
MESSAGE = {
    "id": "={{ $workflow.id }}-{{ $execution.id }}-{{ $itemIndex }}",
    "timestamp": "={{ String(Math.floor(Date.now() / 1000)) }}",
    "body": "={{ JSON.stringify($json) }}",
}


@dataclass(frozen=True)
class Connection:
    """The URL to which a site sends its forms, and the secret that signs them."""

    functions_url: str
    slug: str
    secret: str

    @property
    def url(self) -> str:
        return f"{self.functions_url}/ingest-{self.slug}"

    def signed(self, message_id: str, body: str) -> dict[str, str]:
        timestamp = str(int(time.time()))
        key = standard_webhooks.key_of(self.secret)
        signed = standard_webhooks.signature(key, message_id.encode(), timestamp.encode(), body.encode())
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signed.decode(),
        }

    def paste(self, form: dict[str, str]) -> str:
        return "\n\n".join(
            [
                f"Shell or server (any library for Standard Webhooks does the same):\n\n{self._curl(form)}",
                f"HTML, for pages of the site's own address; there is no secret in it:\n\n{self._html()}",
                f"n8n (paste onto the canvas, after the node that has the form):\n\n{self._n8n()}",
            ]
        )

    def _curl(self, form: dict[str, str]) -> str:
        words = {"secret": self.secret, "body": json.dumps(form), "url": self.url}
        return _filled(CURL, {name: shlex.quote(word) for name, word in words.items()})

    def _html(self) -> str:
        return _filled(HTML, {"functions": self.functions_url, "slug": self.slug})

    def _n8n(self) -> str:
        key = self._text_key()
        if key is None:
            return "n8n signs with text only, and the key of this secret is none: make new-site makes one that is."
        signing = {
            "action": "hmac",
            "type": "SHA256",
            "value": "={{ $json.id }}.{{ $json.timestamp }}.{{ $json.body }}",
            "dataPropertyName": "signature",
            "secret": key,
            "encoding": "base64",
        }
        nodes = [
            _node(0, "Message", "n8n-nodes-base.set", 3.4, _fields(MESSAGE)),
            _node(1, "Signature", "n8n-nodes-base.crypto", 1, signing),
            {
                **_node(2, "Mission Control", "n8n-nodes-base.httpRequest", 4.2, self._request()),
                # All attempts are within the five minutes that a signature is good for.
                **{"retryOnFail": True, "maxTries": 5, "waitBetweenTries": 5000},
            },
        ]
        following = {"Message": "Signature", "Signature": "Mission Control"}
        connections = {
            name: {"main": [[{"node": target, "type": "main", "index": 0}]]}
            for name, target in following.items()
        }
        return json.dumps({"nodes": nodes, "connections": connections}, indent=2)

    def _text_key(self) -> str | None:
        """The key as text, if it is one; a placeholder for a placeholder."""
        if not self.secret.startswith(standard_webhooks.PREFIX):
            return f"{self.secret} after whsec_, decoded from base64"
        key = standard_webhooks.key_of(self.secret)
        return key.decode() if key.isascii() and key.decode().isprintable() else None

    def _request(self) -> dict[str, Any]:
        headers = {
            "webhook-id": "={{ $json.id }}",
            "webhook-timestamp": "={{ $json.timestamp }}",
            "webhook-signature": "=v1,{{ $json.signature }}",
        }
        return {
            "method": "POST",
            "url": self.url,
            "sendHeaders": True,
            "headerParameters": {
                "parameters": [{"name": name, "value": value} for name, value in headers.items()]
            },
            "sendBody": True,
            # The text exactly as it was signed.
            "contentType": "raw",
            "rawContentType": "application/json",
            "body": "={{ $json.body }}",
            "options": {"timeout": 10000},
        }


def _node(place: int, name: str, type_: str, version: float, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "type": type_,
        "typeVersion": version,
        "position": [220 * place, 0],
        "parameters": parameters,
    }


def _fields(values: dict[str, str]) -> dict[str, Any]:
    fields = [{"id": name, "name": name, "value": value, "type": "string"} for name, value in values.items()]
    return {"assignments": {"assignments": fields}, "options": {}}


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text
