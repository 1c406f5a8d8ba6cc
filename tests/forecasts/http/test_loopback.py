"""Tests with real sockets: certificates, proxies, and connections that end early."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lowcarb_scheduler.clock import SystemClock
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts.sources.carbon_aware_sdk import CarbonAwareSdk

pytestmark = pytest.mark.enable_socket
BUDGET = timedelta(seconds=10)
SHORT = timedelta(seconds=1)  # for what is never over


@pytest.fixture(autouse=True)
def _plain_network(monkeypatch):
    """Leave out proxies and certificates that this machine may be set to."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Healthy(BaseHTTPRequestHandler):
    """Server that answers every request with Healthy and keeps the paths."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"Healthy")

    def log_message(self, *_):
        """Print nothing."""


@contextmanager
def serving(context=None):
    """Serve on a free port of this machine; over TLS if a context is given."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    server.asked, server.daemon_threads = [], True
    server.handle_error = lambda *_: None  # a client that trusts nobody hangs up
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def answering(*pieces, reset=False):
    """Answer each connection with raw bytes, a piece every 50 ms, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection):
            with connection, suppress(OSError):  # the client may have had enough
                connection.recv(65_536)
                for piece in pieces:
                    if over.wait(0.05):
                        return
                    connection.sendall(piece)
                if reset:  # without the farewell of TCP
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0])
                    )

        over = threading.Event()
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()


def why(url, budget=BUDGET):
    """Return why a server's health cannot be had, within the budget."""
    sdk = CarbonAwareSdk(url, timeout=budget)
    sdk.client.max_attempts = 1  # retries of a real server take real time
    began = SystemClock().now()
    with pytest.raises(ForecastUnavailableError) as error:
        sdk.health()
    assert SystemClock().now() - began < budget + timedelta(seconds=1)
    (reason,) = error.value.missing.values()
    return reason


# -- certificates ------------------------------------------------------------------------------------------


def certificate(name, signer=None, key=None):
    """Return (certificate, key); signed by itself if nobody else signs it."""
    own = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = SystemClock().now()
    builder = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(signer.subject if signer else who)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
    )
    if signer:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(key or own, hashes.SHA256()), own


@pytest.fixture
def authority(tmp_path):
    """Return a server's TLS context, and the file with the certificate of who signed it."""
    signer, key = certificate("An authority of our own")
    server, server_key = certificate("sdk", signer, key)
    pem = serialization.Encoding.PEM
    (tmp_path / "authority.pem").write_bytes(signer.public_bytes(pem))
    secret = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "server.pem").write_bytes(server.public_bytes(pem) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    return context, tmp_path / "authority.pem"


def test_a_certificate_authority_of_ones_own_is_trusted_if_the_environment_names_it(authority, monkeypatch):
    context, file = authority
    with serving(context) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        refused = why(url)
        assert refused.startswith(f"cannot connect to {url}: [SSL: CERTIFICATE_VERIFY_FAILED]")
        assert "set SSL_CERT_FILE" in refused
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert CarbonAwareSdk(url, timeout=BUDGET).health() == "Healthy"
        assert "certificate is not valid for 'localhost'" in why(url.replace("127.0.0.1", "localhost"))
        monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
        assert why(url).startswith("the proxy or certificate settings of the environment are wrong: ")


def test_a_server_that_does_not_speak_tls_is_explained():
    with serving() as server:
        assert "cannot connect to https://127.0.0.1:" in why(f"https://127.0.0.1:{server.server_port}")


# -- proxies -----------------------------------------------------------------------------------------------


def test_the_proxy_of_the_environment_is_used(monkeypatch):
    with serving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        assert CarbonAwareSdk("http://sdk.example:8080/a", timeout=BUDGET).health() == "Healthy"
        assert proxy.asked == ["http://sdk.example:8080/a/health"]


def test_no_proxy_is_used_for_what_the_environment_excepts(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody listens there
    with serving() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        assert why(url).startswith(f"cannot connect to {url}: ")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert CarbonAwareSdk(url, timeout=BUDGET).health() == "Healthy"
        assert server.asked == ["/health"]


# -- connections -------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    ("pieces", "reset", "reason"),
    [
        ([], False, "broke off the connection"),
        ([], True, "broke off the connection"),
        ([HEAD[:20]], False, "broke off the connection"),
        ([HEAD + b"Content-Length: 100\r\n\r\nHealthy"], False, "broke off the connection"),
        ([HEAD + b"Content-Length: 100\r\n\r\nHealthy"], True, "broke off the connection"),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n7\r\nHea"], False, "broke off the connection"),
        ([HEAD + b"Content-Length: 7\r\nContent-Encoding: gzip\r\n\r\nHealthy"], False, "cannot be read"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], False, "broke off the connection"),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000], False, "broke off the connection"),
    ],
    ids=["closed", "reset", "cut in the head", "cut in the body", "reset in the body", "cut chunk", "no gzip",
         "another protocol", "endless header"],
)  # fmt: skip
def test_a_connection_that_ends_early_is_explained(pieces, reset, reason):
    with answering(*pieces, reset=reset) as port:
        assert reason in why(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([bytes([letter]) for letter in HEAD], "no answer within 1 s"),  # beyond any time limit of a client
        ([HEAD + b"Content-Length: 1000\r\n\r\n"], "does not answer completely in time"),
    ],
    ids=["head", "body"],
)
def test_a_connection_that_drips_is_left_in_time(pieces, reason):
    with answering(*pieces, *[b"x"] * 1000) as port:
        assert why(f"http://127.0.0.1:{port}", SHORT) == reason
