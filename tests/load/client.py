"""A lean HTTP/1.1 client for load: what it costs must not hide what the hub costs."""

import asyncio
import json
import re
from typing import Any

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One keep-alive connection; opened again when the other side went away."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._transport: Any = None
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    async def post(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Status and JSON body; ConnectionError when there was no whole answer."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, self.host, self.port)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"POST {path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-length: {len(body)}\r\n{head}\r\n"
        self._answer = loop.create_future()
        self._transport.write(request.encode() + body)
        answer = await self._answer
        head_bytes, _, content = answer.partition(b"\r\n\r\n")
        if b"connection: close" in head_bytes.lower():
            self.close()
        return int(answer[9:12]), json.loads(content) if content.startswith(b"{") else None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, content = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if (
            separator
            and length
            and len(content) >= int(length[1])
            and self._answer
            and not self._answer.done()
        ):
            self._received, answer = b"", self._received
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(error)))
