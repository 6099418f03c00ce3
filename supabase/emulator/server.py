"""uvicorn as the gateway runs it: JSON logs, JSON refusals, and an end to requests that never end."""

import asyncio
import json
import logging
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from emulator.functions.loader import stamp
from shared.errors import HubError
from shared.web import protocol

REQUEST_SECONDS = 10
LARGEST_HEAD = 64 * 1024
LINGER_SECONDS = 2
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS = 5


def run(app: ASGIApp, listening: socket.socket, restart_on_change_in: Path) -> None:
    """Serve until SIGTERM, or until shared code changes: then the supervisor starts the next process."""
    log_as_json()
    Server(configured(app), restart_on_change_in).run(sockets=[listening])


def configured(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        # No proxy stands in front of the gateway: X-Forwarded-For is a client's own.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, watched: Path) -> None:
        super().__init__(config)
        self._watched = watched
        self._stamp = stamp(watched)

    async def on_tick(self, counter: int) -> bool:
        if counter % 5 == 0 and stamp(self._watched) != self._stamp:
            logging.getLogger("emulator.gateway").info("%s has changed: starting again", self._watched.name)
            self.should_exit = True
        return await super().on_tick(counter)


class Protocol(protocol.Protocol):
    """The functions' own protocol, with an end to requests that never end and to clients that never stop sending."""

    _arriving = True
    _in_head = True
    _head_size = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline(REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_size += len(data)
        super().data_received(data)
        if self._in_head and self._head_size > LARGEST_HEAD and not self.transport.is_closing():
            self.refuse(HubError("The headers are too large.", status=431, code="headers_too_large"))
        # A request that came in one piece, as most do, never has a timer.
        if not self._arriving:
            self._clear_deadline()
        elif self._deadline is None:
            self._set_deadline(REQUEST_SECONDS)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_size = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # A client that was refused may still be sending; it gets time to finish and read why, and no more.
        if self._arriving and not self._in_head:
            self._set_deadline(LINGER_SECONDS)
        super().on_response_complete()

    def _set_deadline(self, seconds: float) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, self._out_of_time)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _out_of_time(self) -> None:
        answered = self.cycle is not None and self.cycle.response_started and not self._in_head
        if self.transport.is_closing() or answered:
            self.transport.close()
        else:
            sentence = f"The request took longer than {REQUEST_SECONDS} seconds to arrive."
            self.refuse(HubError(sentence, status=408, code="request_timeout"))


def log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
