"""Stand-ins for gcloud and supabase: they answer what they are asked as the CLIs document it, and write down the rest.

Lists are those of `gcloud … list --format=json(…)`: Function v2, Service of Service Usage, Secret and SecretVersion,
Job of Cloud Scheduler, Service of Cloud Run (Knative), Policy; and rows as `supabase db query` prints them.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

APIS = ("cloudfunctions", "run", "cloudbuild", "artifactregistry", "secretmanager", "cloudscheduler")
SECRETS = ("DATABASE_URL", "HUB_INVOKE_SECRET")
# As the functions of a project run unless told otherwise.
ACCOUNT = "77-compute@developer.gserviceaccount.com"

PROGRAM = """#!{python} -IS
import json, os, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
if words[:2] == ["auth", "list"]:
    sys.exit(print(os.environ.get("ACCOUNT", "")))
with open({answers!r}) as file:
    answers = json.load(file)
asked = " ".join(words)
answer = next((answers[it] for it in sorted(answers, key=len, reverse=True) if it in asked), None)
if answer is not None and words[1] not in ("deploy", "push"):
    if isinstance(answer, str):
        sys.exit(answer)
    sys.exit(print(json.dumps(answer)))
with open({calls!r}, "a") as calls:
    print(json.dumps([name, *words, os.environ.get("PGPASSWORD")]), file=calls)
sys.exit(3 if os.environ.get("FAILS") in words else 0)
"""


class Platform:
    """A project where all was done by hand that is to be, and where nothing is deployed yet."""

    def __init__(self, folder: Path, functions_url: str) -> None:
        self.programs = folder / "bin"
        self._calls, self._answers = folder / "calls", folder / "answers"
        self.programs.mkdir()
        paths = {"answers": str(self._answers), "calls": str(self._calls)}
        for name in ("supabase", "gcloud"):
            (self.programs / name).write_text(PROGRAM.format(python=sys.executable, **paths))
            (self.programs / name).chmod(0o755)
        reader = {
            "role": "roles/secretmanager.secretAccessor",
            "members": [f"serviceAccount:{ACCOUNT}"],
        }
        self._known: dict[str, Any] = {}
        self.answer(
            {
                "services list --enabled": enabled(APIS),
                "functions list": [],
                "secrets list": secrets(*SECRETS),
                "secrets versions list": [{"name": "projects/77/secrets/s/versions/3", "state": "ENABLED"}],
                "secrets get-iam-policy": {"etag": "ACAB"},
                "projects get-iam-policy": {"bindings": [reader], "etag": "BwYA", "version": 1},
                "scheduler jobs list": [job(f"{functions_url}/sweep")],
                "run services list": [],
                "vault.decrypted_secrets": [
                    {"name": "functions_url", "value": functions_url},
                    {"name": "hub_invoke_secret", "value": None},
                ],
                "to_regclass": [{"value": True}],
                "public.sites": [],
            }
        )

    def answer(self, answers: Mapping[str, Any]) -> None:
        """By a part of the command that asks; a text is what the CLI complains of."""
        self._known |= answers
        self._answers.write_text(json.dumps(self._known))

    def calls(self) -> list[list[str]]:
        """What else was called, in order; last in each is the database's password as it came along."""
        if not self._calls.exists():
            return []
        return [json.loads(line) for line in self._calls.read_text().splitlines()]

    def forget(self) -> None:
        self._calls.unlink()


def enabled(apis: tuple[str, ...]) -> list[Any]:
    return [{"config": {"name": f"{api}.googleapis.com"}} for api in apis]


def secrets(*names: str) -> list[Any]:
    return [{"name": f"projects/77/secrets/{name}"} for name in names]


def job(uri: str, state: str = "ENABLED") -> dict[str, Any]:
    return {"name": "projects/p/locations/r/jobs/sweep", "state": state, "httpTarget": {"uri": uri}}


def function(name: str, variables: Mapping[str, str], secrets: list[str]) -> dict[str, Any]:
    return {
        "name": f"projects/p/locations/r/functions/{name.replace('_', '-')}",
        "serviceConfig": {
            "environmentVariables": {**variables, "LOG_EXECUTION_ID": "true"},
            "secretEnvironmentVariables": [
                {"key": it, "projectId": "77", "secret": it, "version": "latest"} for it in secrets
            ],
            "serviceAccountEmail": ACCOUNT,
        },
    }


def service(name: str, **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"template": {"metadata": {"annotations": annotations}}},
    }
