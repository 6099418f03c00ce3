"""REST alone, without authentication: for conformance suites that expect a bare PostgREST at `/`."""

import argparse

import uvicorn

from emulator.rest import create_app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m emulator.rest", description=__doc__)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--anon-role", default="anon", help="the role of every request")
    parser.add_argument("--schemas", default="public", help="comma-separated; the first is the default")
    parser.add_argument("--max-rows", type=int, default=1000)
    parser.add_argument("--plan", action="store_true", help="answer the plan media types")
    parser.add_argument("--tx-override", action="store_true", help="let Prefer: tx=rollback decide")
    options = parser.parse_args()
    app = create_app(
        options.database_url,
        lambda headers: {},
        schemas=tuple(options.schemas.split(",")),
        anon_role=options.anon_role,
        max_rows=options.max_rows,
        plan_enabled=options.plan,
        tx_end_override=options.tx_override,
        public_url=f"http://127.0.0.1:{options.port}",
    )
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", ws="none")


if __name__ == "__main__":
    main()
