"""A running hub as its operator reaches it: over REST, with the URL, keys and password of STATE/hub.env."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import httpx


class Refused(Exception):
    """The command cannot be done; the message is a sentence for its caller."""


class Hub:
    def __init__(self, env: dict[str, str], who: str = "OPERATOR") -> None:
        self._api = httpx.Client(
            base_url=env["SUPABASE_URL"], headers={"apikey": env["SUPABASE_PUBLISHABLE_KEY"]}, timeout=60
        )
        credentials = {"email": env[f"{who}_EMAIL"], "password": env[f"{who}_PASSWORD"]}
        session = self._answer(self._api.post("/auth/v1/token?grant_type=password", json=credentials))
        self._api.headers["authorization"] = f"Bearer {session['access_token']}"

    def rows(self, table: str, **filters: str) -> Any:
        return self._answer(self._api.get(f"/rest/v1/{table}", params=filters))

    def published(self, agent: str) -> int:
        """The number of an agent's published version."""
        rows = self.rows(
            "agent_versions",
            select="version,agents!inner(name)",
            status="eq.published",
            **{"agents.name": f"eq.{agent}"},
        )
        if not rows:
            raise Refused(f"There is no agent {agent} with a published version.")
        return int(rows[0]["version"])

    def change(self, table: str, changes: dict[str, Any], **filters: str) -> None:
        self._answer(
            self._api.patch(
                f"/rest/v1/{table}", params=filters, json=changes, headers={"prefer": "return=representation"}
            )
        )

    def call(self, function: str, **arguments: Any) -> Any:
        return self._answer(self._api.post(f"/rest/v1/rpc/{function}", json=arguments))

    @staticmethod
    def _answer(response: httpx.Response) -> Any:
        if response.is_success:
            return response.json()
        problem = response.json() if "json" in response.headers.get("content-type", "") else {}
        raise Refused(
            problem.get("message") or problem.get("msg") or f"the hub answered {response.status_code}"
        )


def settings(state: str) -> dict[str, str]:
    """The settings of hub.env, or the environment if there is none."""
    path = Path(state) / "hub.env"
    if not path.exists():
        if "SUPABASE_URL" in os.environ:
            return dict(os.environ)
        sys.exit(f"There is no hub in {state}: start one with `make run`.")
    return read(path)


def read(file: Path) -> dict[str, str]:
    """A hub.env; nothing when there is none."""
    if not file.exists():
        return {}
    lines = (line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    return {name: "".join(shlex.split(value)) for name, value in lines}
