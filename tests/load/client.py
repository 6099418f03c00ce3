"""A lean HTTP/1.1 client for load: what it costs must not hide what the hub costs."""

import asyncio
import json
from typing import Any


class Connection:
    """One keep-alive connection; opened again when the other side went away."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Status and JSON body; ConnectionError when there was no whole answer."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        assert self.reader is not None
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"POST {path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-length: {len(body)}\r\n{head}\r\n"
        try:
            self.writer.write(request.encode() + body)
            answer = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(answer.split("content-length:")[1].split("\r\n")[0])
            content = await self.reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, IndexError) as error:
            self.close()
            raise ConnectionError(str(error)) from error
        if "connection: close" in answer:
            self.close()
        return int(answer[9:12]), json.loads(content) if content.startswith(b"{") else None

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None
