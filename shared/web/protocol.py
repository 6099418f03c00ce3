"""HTTP/1.1 for functions: uvicorn's protocol, which hangs up on clients that it could answer.

A client may stop sending once it has asked, and may offer a protocol that nobody here speaks: uvicorn closes on the
first and loses the body of the second. Bytes that are no request are refused in JSON, as everything is.
"""

import json
import re
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import BadRequest, HubError

_REQUEST_LINE = re.compile(rb"[\w!#$%&'*+.^`|~-]{1,32} [^ \r\n]+ HTTP/1\.[01]\r\n")


class Protocol(HttpToolsProtocol):
    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self.scope["method"] == "CONNECT":
                    self._refuse_method()
                    return
                data = self._head_without_offer() + data[offer.args[0] :]
            except httptools.HttpParserError as error:
                # httptools has one error for a method that it does not know and for bytes that are no HTTP at all.
                if "method" in str(error) and _REQUEST_LINE.match(data):
                    self._refuse_method()
                else:
                    self.refuse(BadRequest("Invalid HTTP request received."))
                return
            else:
                return

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open: a whole request is owed an answer, half a request is not."""
        cycle = self.cycle
        is_owed = cycle is not None and not cycle.more_body and not cycle.response_complete
        if is_owed:
            cycle.keep_alive = False
        return is_owed

    def refuse(self, error: HubError) -> None:
        body = json.dumps(error.body())
        self.transport.write(
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            "content-type: application/json; charset=utf-8\r\n"
            "x-content-type-options: nosniff\r\n"
            "cache-control: no-store\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
            f"{body}".encode()
        )
        self.transport.close()

    def _refuse_method(self) -> None:
        self.refuse(
            HubError("This method is not implemented here.", status=501, code="method_not_implemented")
        )

    def _should_upgrade(self) -> bool:
        # The parser skips the body of a request with an offer. "Yes" keeps uvicorn from serving it without.
        return True

    def _head_without_offer(self) -> bytes:
        """The request's head, for the parser to read again and go on to the body."""
        line = b"%s %s HTTP/%s" % (
            self.scope["method"].encode(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        headers = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([line, *headers, b"", b""])
