"""outgoing: what somebody else has chosen leads to nothing that only we can reach, and takes no more than its time."""

import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.partners import Partner, running_partner

from shared.outbound.client import (
    EXCERPT_BYTES,
    Answer,
    Client,
    Forbidden,
    Resolve,
    Unreachable,
    is_open,
    resolve,
)

CLOSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.1.2.3",
    "169.254.169.254",
    "169.254.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456:789a::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
OPEN = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "172.32.0.1",
    "192.169.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
]


@pytest.fixture
def partner() -> Iterator[Partner]:
    with running_partner() as partner:
        yield partner


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTNERS_MAY_BE_LOCAL", "1")


def names(*answers: list[str]) -> Resolve:
    """A resolver that answers each of these in turn, then the last again."""
    waiting = list(answers)

    async def resolve(_host: str, _port: int) -> list[str]:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return resolve


def post(url: str, resolve: Resolve = resolve, times: int = 1, **more: Any) -> Answer:
    async def all_of_them() -> Answer:
        for _ in range(times):
            async with Client(resolve) as client:
                answer = await client.post(url, b"{}", {}, **more)
        return answer

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("address", CLOSED)
def test_what_is_not_public_is_closed(address: str) -> None:
    assert not is_open(ip_address(address))


@pytest.mark.parametrize("address", OPEN)
def test_what_is_public_is_open(address: str) -> None:
    assert is_open(ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_unless_told_otherwise_nothing_local_is_reached_however_it_is_written(
    partner: Partner, host: str
) -> None:
    port = partner.url.rsplit(":", 1)[1]

    with pytest.raises((Forbidden, Unreachable)):
        post(f"https://{host}:{port}/")
    with pytest.raises(Forbidden):
        post(f"http://{host}:{port}/")
    assert partner.received == []


@pytest.mark.parametrize(
    "answers", [["8.8.8.8", "10.0.0.1"], ["127.0.0.1", "192.168.1.1"], ["fe80::1%eth0"], ["nonsense"]]
)
def test_one_address_that_is_closed_closes_the_name(
    partner: Partner, local: None, answers: list[str]
) -> None:
    port = partner.url.rsplit(":", 1)[1]

    with pytest.raises(Forbidden):
        post(f"http://partner.example:{port}/", names(answers))
    assert partner.received == []


def test_a_name_that_moves_inward_is_refused_the_moment_it_does(partner: Partner, local: None) -> None:
    url = f"http://partner.example:{partner.url.rsplit(':', 1)[1]}/"

    with pytest.raises(Forbidden):
        post(url, names(["127.0.0.1"], ["10.0.0.1"]), times=2)
    assert len(partner.received) == 1


def test_the_partner_is_asked_by_its_name_at_the_address_that_was_checked(
    partner: Partner, local: None
) -> None:
    port = partner.url.rsplit(":", 1)[1]

    answer = post(f"http://partner.example:{port}/in?from=hub", names(["127.0.0.1"]))

    assert (answer.status, answer.excerpt) == (200, "thanks")
    assert (partner.received[0].path, partner.received[0].headers["host"]) == (
        "/in?from=hub",
        f"partner.example:{port}",
    )


def test_without_a_certificate_of_that_name_nothing_is_sent(local: None, tmp_path: Path) -> None:
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path, "partner.example"))
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        received: list[bytes] = []
        thread = threading.Thread(target=receive, args=(listening, context, received))
        thread.start()

        with pytest.raises(Unreachable):
            post(f"https://partner.example:{listening.getsockname()[1]}/", names(["127.0.0.1"]))
        thread.join()

    assert (asked, received) == (["partner.example"], [])


def receive(listening: socket.socket, context: ssl.SSLContext, received: list[bytes]) -> None:
    connection, _ = listening.accept()
    try:
        with context.wrap_socket(connection, server_side=True) as secured:
            received.append(secured.recv(100))
    except OSError:
        pass


def self_signed(folder: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_a_redirect_is_an_answer_and_not_followed(partner: Partner, local: None) -> None:
    partner.answers = [(302, {"location": f"{partner.url}/inward"})]

    assert post(partner.url + "/hook").status == 302
    assert partner.paths == ["/hook"]


def test_a_proxy_of_the_environment_is_not_used(
    partner: Partner, local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert post(partner.url).status == 200


def test_of_a_long_answer_the_beginning_is_read(partner: Partner, local: None) -> None:
    partner.text = b"x" * 50_000_000

    assert post(partner.url, seconds=5).excerpt == "x" * EXCERPT_BYTES


@pytest.mark.parametrize(
    "host", ["partner.invalid", "a" * 300 + ".example", "\u00ff.example", "a.example:99999"]
)
def test_a_name_that_is_none_is_unreachable(host: str) -> None:
    with pytest.raises((Unreachable, Forbidden)):
        post(f"https://{host}/")


def test_who_does_not_answer_in_time_is_unreachable(partner: Partner, local: None) -> None:
    partner.answers = [None]

    with pytest.raises(Unreachable, match=r"within 0\.2 s"):
        post(partner.url, seconds=0.2)


def test_who_speaks_another_language_is_unreachable(local: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ready\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable):
            post(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join()
