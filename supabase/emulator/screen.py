"""The screen that `make run` prints: all that a first form needs."""

from emulator.state import State, email

SCREEN = """
  Mission Control

  API            {url}
    REST         {url}/rest/v1/
    Auth         {url}/auth/v1/
    Functions    {url}/functions/v1/
  Database       {database}
  Publishable    {publishable}
  Secret         {secret}
  Sign in as     {users}
                 (passwords in {environment})
  Logs           {logs}

  A first form:

    curl -i {url}/functions/v1/ingest-prime \\
      -H 'Content-Type: application/json' \\
      -H 'x-webhook-secret: {prime}' \\
      -d '{{"name": "Ada Lovelace", "email": "ada@example.com", "phone": "021 555 0147",
           "service": "Switchboard upgrade", "message": "No power in half the house, please call today"}}'
"""


def ready_screen(state: State, url: str) -> str:
    keys = state.keys
    return SCREEN.format(
        url=url,
        database=state.database_url("postgres"),
        publishable=keys.publishable_key,
        secret=keys.secret_key,
        users=", ".join(email(role) for role in keys.passwords),
        environment=state.environment,
        logs=state.logs,
        prime=keys.site_secrets["prime"],
    )
