"""The worker of pg_net: sends queued requests, right after the commit, and stores the answers.

One transaction per batch, as in the original, with its consequences: the slowest request of a batch holds
back those behind it, and a worker that dies in a batch leaves it in the queue, so all of it is sent again.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

APPLICATION = "pg_net worker"
USER_AGENT = "pg_net/0.20.4"
BATCH_SIZE = 200
TTL = "6 hours"

type Connection = psycopg.AsyncConnection[Any]

EXPIRE = """
  delete from net._http_response as response
  using (
    select ctid from net._http_response
    where created < now() - %s::interval
    order by created
    limit %s
  ) as expired
  where response.ctid = expired.ctid
"""
CONSUME = """
  with next as (select id from net.http_request_queue order by id limit %s),
  taken as (
    delete from net.http_request_queue as queue using next where queue.id = next.id
    returning queue.*
  )
  select taken.id, method, url, coalesce(headers, '{}') as headers, body, timeout_milliseconds,
         coalesce(lose, 0) as lose, coalesce(repeat, 1) as repeat, coalesce(delay_ms, 0) as delay_ms
  from taken
  left join lateral (
    select * from net.faults where taken.url like url_pattern order by length(url_pattern) desc limit 1
  ) as fault on true
  order by taken.id
"""
STORE = """
  insert into net._http_response (id, status_code, content_type, headers, content, timed_out, error_msg)
  values (%(id)s, %(status_code)s, %(content_type)s, %(headers)s, %(content)s, %(timed_out)s, %(error_msg)s)
"""

# The words of curl, as the column holds them on a hosted project.
CURL_WORDS: dict[type[Exception], str] = {
    httpx.ConnectError: "Couldn't connect to server",
    httpx.RemoteProtocolError: "Server returned nothing (no headers, no data)",
    httpx.ReadError: "Failure when receiving data from the peer",
    httpx.WriteError: "Failed sending data to the peer",
    httpx.TooManyRedirects: "Number of redirects hit maximum amount",
    httpx.UnsupportedProtocol: "Unsupported protocol",
    httpx.InvalidURL: "URL using bad/illegal format or missing URL",
}


@dataclass(frozen=True)
class Request:
    id: int
    method: str
    url: str
    headers: dict[str, Any]
    body: bytes | None
    timeout_milliseconds: int
    lose: float
    repeat: int
    delay_ms: int


type Answer = dict[str, Any]


async def send_requests(connection: Connection) -> None:
    await connection.execute("listen pg_net")
    async with client() as http:
        while True:
            if not await send_batch(connection, http):
                async for _ in connection.notifies(timeout=1, stop_after=1):
                    pass


def client() -> httpx.AsyncClient:
    """A client without proxies from the environment and without kept connections, which a killed receiver would break."""
    http = httpx.AsyncClient(
        headers={"User-Agent": USER_AGENT},
        timeout=None,  # noqa: S113  (each request has its own deadline, over everything)
        follow_redirects=True,
        trust_env=False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )
    del http.headers["Accept-Encoding"]
    return http


async def send_batch(connection: Connection, http: httpx.AsyncClient) -> int:
    async with connection.transaction(), connection.cursor(row_factory=class_row(Request)) as cursor:
        await cursor.execute(EXPIRE, [TTL, BATCH_SIZE])
        requests = await (await cursor.execute(CONSUME, [BATCH_SIZE])).fetchall()
        if requests:
            answers = await asyncio.gather(*(send_with_faults(http, request) for request in requests))
            await cursor.executemany(STORE, [answer for answer in answers if answer is not None])
    return len(requests)


async def send_with_faults(http: httpx.AsyncClient, request: Request) -> Answer | None:
    if request.delay_ms:
        await asyncio.sleep(request.delay_ms / 1000)
    if random.random() < request.lose:  # noqa: S311
        return None
    answers = await asyncio.gather(*(send(http, request) for _ in range(request.repeat)))
    return answers[0]


async def send(http: httpx.AsyncClient, request: Request) -> Answer:
    answer: Answer = dict.fromkeys(("status_code", "content_type", "headers", "content", "error_msg"))
    answer |= {"id": request.id, "timed_out": False}
    began = time.monotonic()
    try:
        async with asyncio.timeout(request.timeout_milliseconds / 1000):
            response = await http.request(
                request.method.upper(),
                request.url,
                content=request.body,
                headers={name: str(value) for name, value in request.headers.items()},
            )
    except TimeoutError:
        total = (time.monotonic() - began) * 1000
        message = f"Timeout of {request.timeout_milliseconds} ms reached. Total time: {total:f} ms"
        return answer | {"timed_out": True, "error_msg": message}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return answer | {"error_msg": CURL_WORDS.get(type(error), str(error))}
    # A C string ends at the first zero byte, and an empty one is stored as null.
    content = response.content.partition(b"\0")[0].decode(errors="replace")
    return answer | {
        "status_code": response.status_code,
        "content_type": response.headers.get("Content-Type"),
        "headers": Jsonb(dict(response.headers)),
        "content": content or None,
    }
