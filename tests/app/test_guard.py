"""What the server lets in: sockets and HTTP against the whole page, on the tiny checkpoint."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from apps import demo
from apps.server import bodies, connections
from apps.server.answers import Refusal
from apps.server.tries import FREE, LONGEST, Tries
from tests.app.page import NO_TOUR, QUIET
from tests.browsing import PATIENCE, free_port

pytestmark = QUIET

JOIN = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.fixture(scope="module")
def own(demo_address) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo_address, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def locked(tiny_checkpoint) -> Iterator[str]:
    """The page with a password."""
    page, address = demo.launch(
        tiny_checkpoint, port=free_port(), dtype="float32", block=False, auth=("ann", "right")
    )
    yield address
    page.close()


@pytest.fixture
def stranger(locked) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked, trust_env=False, timeout=30) as client:
        yield client


def raw(address: str, text: str | bytes, patience: float = 20) -> bytes:
    """All that the server answers until it closes, or for so many seconds."""
    url = urlsplit(address)
    answer = b""
    with socket.create_connection((url.hostname, url.port), timeout=patience) as line:
        line.sendall(text if isinstance(text, bytes) else text.encode())
        try:
            while chunk := line.recv(65536):
                answer += chunk
        except (TimeoutError, ConnectionError):
            pass
    return answer


def sentence_of(answer: httpx.Response) -> str:
    said = answer.json()
    assert isinstance(said["error"], str)
    assert "\n" not in said["error"]
    assert ": " in said["error"]
    return said["error"]


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:80", "localhost.", "127.0.0.5"]
)
def test_the_servers_own_names_are_let_in(own, host):
    assert own.get("/theme.css", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[fe80::1]",
     "localhost:7860@evil.example", "evil.example:80", "localhost evil", "localhost:x"],
)  # fmt: skip
@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host"])
def test_other_names_are_refused(own, host, header):
    answer = own.get("/config", headers={header: host})
    assert answer.status_code in (400, 403)
    assert sentence_of(answer)


def test_a_request_without_a_host_is_refused(demo_address):
    answer = raw(demo_address, "GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"error" in answer


def test_an_allowed_name_is_let_in(tiny_checkpoint, monkeypatch):
    hosts = demo.Hosts("127.0.0.1", ["Demo.Example.org"])
    hosts.check({"host": "demo.example.org:443"})
    hosts.check_origin("POST", {"host": "127.0.0.1:7860", "origin": "https://demo.example.org"})
    monkeypatch.setenv("ECAR_APP_HOSTS", "one.example, two.example")
    assert demo.names_of_environment() == ("one.example", "two.example")
    for wrong in ("http://demo.example.org", "demo.example.org:80", "", "*"):
        with pytest.raises(demo.EcarError, match="give a name alone"):
            demo.Hosts("127.0.0.1", [wrong])
    demo.Hosts("0.0.0.0").check({"host": "192.168.1.4:7860"})


# -- other pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "file://"},
        {"Referer": "https://evil.example/page"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
@pytest.mark.parametrize(("method", "path"), [("POST", UPLOAD), ("POST", JOIN), ("OPTIONS", JOIN)])
def test_what_another_page_sends_is_refused(own, headers, method, path):
    body = {"files": {"files": ("a.png", b"x")}} if path == UPLOAD and method == "POST" else {}
    answer = own.request(method, path, headers=headers, **body)
    assert answer.status_code == 403
    assert "another page" in sentence_of(answer)
    assert "access-control-allow-origin" not in answer.headers


def test_what_the_own_page_sends_is_taken(own, demo_address):
    origin = demo_address.rstrip("/")
    for headers in ({"Origin": origin, "Sec-Fetch-Site": "same-origin"}, {"Referer": demo_address}):
        answer = own.post(UPLOAD, headers=headers, files={"files": ("a.txt", b"own page")})
        assert answer.status_code == 200
    answer = own.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == 200  # a link from elsewhere


# -- headers and words -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/config", 200),
        ("GET", "/assets/none.js", 404),
        ("GET", "/nowhere", 404),
        ("PUT", JOIN, 405),
        ("POST", JOIN, 422),
        ("GET", "/gradio_api/file=/etc/passwd", 403),
        ("GET", "/gradio_api/queue/data?session_hash=none", 404),
        ("GET", "/gradio_api/call/generate/none", 404),
        ("GET", "/gradio_api/deep_link?session_hash=x", 404),
        ("GET", "/gradio_api/file=https://example.com/a.png", 404),
        ("GET", f"/config?{'x' * 9000}", 414),
        ("POST", "/gradio_api/process_recording", 404),
        ("POST", "/gradio_api/component_server", 404),
        ("GET", "/gradio_api/heartbeat/a b", 400),
        ("POST", "/gradio_api/cancel", 400),
        ("POST", "/gradio_api/run/generate", 422),
    ],
)
def test_every_answer_has_the_headers_and_every_refusal_a_sentence(own, method, path, status):
    answer = own.request(method, path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    if status >= 400:
        assert sentence_of(answer)


def test_a_person_gets_the_sentence_as_a_page(own):
    answer = own.get("/", headers={"Host": "evil.example", "Accept": "text/html"})
    assert answer.status_code == 403
    assert "text/html" in answer.headers["content-type"]
    assert "does not go by the name" in answer.text


def test_bad_input_over_http_gets_a_sentence(own):
    for data in ([], ["dog"] * 40, [{"a": 1}], None, ["zebra"]):
        made = own.post("/gradio_api/call/generate", json={"data": data})
        if made.status_code >= 400:
            assert sentence_of(made)
            continue
        said = own.get(f"/gradio_api/call/generate/{made.json()['event_id']}").text
        assert "event: error" in said
        assert json.loads(said.split("data: ")[1].split("\n")[0])["error"]
    past = own.post("/gradio_api/run/generate", json={"data": ["dog"]})  # past the queue
    assert past.status_code == 404
    assert sentence_of(past)


# -- sessions --------------------------------------------------------------------------------------


def test_a_session_belongs_to_whoever_began_it(own, demo_address):
    cookie = httpx.get(demo_address, trust_env=False).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "set-cookie" not in own.get("/", headers={"Cookie": cookie.split(";")[0]}).headers
    mine, asked = {"Cookie": cookie.split(";")[0]}, {"session_hash": "my-own"}
    assert own.post("/gradio_api/reset", json={**asked, "event_id": "x"}, headers=mine).is_success
    for path, body in (
        ("/gradio_api/reset", {"event_id": "x"}),
        ("/gradio_api/cancel", {"event_id": "x", "fn_index": 0}),
        (JOIN, {"data": [], "fn_index": 0}),
        ("/gradio_api/run/generate", {"data": []}),
    ):
        thief = httpx.post(
            f"{demo_address.rstrip('/')}{path}", json={**asked, **body}, trust_env=False
        )
        assert (thief.status_code, "somebody else's" in sentence_of(thief)) == (403, True)
    for path in ("/gradio_api/heartbeat/my-own", "/gradio_api/queue/data?session_hash=my-own"):
        assert httpx.get(f"{demo_address.rstrip('/')}{path}", trust_env=False).status_code == 403
    both = "/gradio_api/queue/data?session_hash=another&session_hash=my-own"
    assert own.get(both).status_code == 400


# -- sizes and patience ----------------------------------------------------------------------------


def upload_head(address: str, *lines: str) -> str:
    return "\r\n".join(
        [
            f"POST {UPLOAD} HTTP/1.1",
            f"Host: {urlsplit(address).netloc}",
            "Content-Type: multipart/form-data; boundary=x",
            *lines,
            "\r\n",
        ]
    )


def test_a_large_upload_is_refused_before_it_is_sent(demo_address):
    head = upload_head(demo_address, "Content-Length: 200000000", "Expect: 100-continue")
    begin = time.monotonic()
    answer = raw(demo_address, head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"190.7 MB" in answer
    assert time.monotonic() - begin < 10


def test_a_body_without_a_length_is_cut_off_at_the_limit(demo_address):
    head = upload_head(demo_address, "Transfer-Encoding: chunked")
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    answer = raw(demo_address, head.encode() + 6 * chunk, patience=5)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"may have 5 MB" in answer


def test_a_broken_or_bulky_upload_leaves_nothing(own, demo_address, tmp_path, monkeypatch):
    folder = own.post(UPLOAD, files={"files": ("a.txt", b"where do you put it?")}).json()[0]
    root = folder.rsplit("/", 2)[0]
    before = files_below(root)
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    url = urlsplit(demo_address)
    for _ in range(3):
        with socket.create_connection((url.hostname, url.port)) as line:
            head = upload_head(demo_address, "Content-Length: 4500000")
            line.sendall((head + part).encode() + b"x" * 400_000)
    many = [("files", (f"{number}.txt", b"x")) for number in range(9)]
    answer = own.post(UPLOAD, files=many)
    assert (answer.status_code, "9 files" in sentence_of(answer)) == (413, True)
    assert own.post(UPLOAD, json={}).status_code == 400
    assert files_below(root) == before


def test_what_a_visitor_uploads_has_an_end():
    uploads = bodies.Uploads(clock := iter([0.0, 1.0, 2.0, 3.0, 10_000.0]).__next__)
    half = bodies.UPLOADS_EACH // 2
    assert clock
    uploads.take("a", half)
    uploads.take("a", half)
    with pytest.raises(bodies.Refusal, match="you have uploaded 60 MB"):
        uploads.take("a", 1)
    uploads.take("b", half)
    uploads.take("a", half)


def test_half_a_request_is_closed_and_locks_nobody_out(own, demo_address, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(bodies, "SECONDS", 0.5)
    host = f"Host: {urlsplit(demo_address).netloc}\r\n"
    for begun in (
        "GET / HTTP/1.1\r\n",
        f"POST {JOIN} HTTP/1.1\r\n{host}Content-Length: 9\r\n\r\n{{",
    ):
        answer = raw(demo_address, begun)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"not complete" in answer
    assert raw(demo_address, "") == b""  # says nothing at all
    assert b"400 Bad Request" in raw(demo_address, "no HTTP\r\n\r\n")


def test_many_half_open_connections_make_room(own, demo_address, monkeypatch):
    monkeypatch.setattr(connections, "MOST_WAITING", 20)
    url = urlsplit(demo_address)
    lines = []
    for _ in range(60):
        lines.append(socket.create_connection((url.hostname, url.port)))
        lines[-1].sendall(b"GET / HTTP/1.1\r\n")
    assert httpx.get(f"{demo_address}theme.css", trust_env=False).status_code == 200
    lines[0].settimeout(20)
    with contextlib.suppress(ConnectionResetError):  # before it was even read
        assert b"408" in lines[0].recv(1000)  # the oldest made room
    for line in lines:
        line.close()


# -- passwords -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/config"), ("GET", "/openapi.json"), ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/info"), ("GET", "/gradio_api/heartbeat/abc"),
        ("POST", "/gradio_api/reset"), ("POST", "/gradio_api/cancel"), ("POST", JOIN),
        ("POST", UPLOAD), ("GET", "/gradio_api/startup-events"), ("GET", "/gradio_api/app_id"),
        ("GET", "/gradio_api/token"), ("POST", "/gradio_api/call/generate"),
        ("DELETE", "/"), ("GET", "//gradio_api/info"), ("GET", "/gradio_api/upload_progress"),
    ],
)  # fmt: skip
def test_nothing_answers_without_the_password(stranger, method, path):
    answer = stranger.request(method, path)
    assert answer.status_code == 401
    assert "not logged in" in sentence_of(answer)


def test_the_login_page_works_and_gives_nothing_away(stranger):
    page = stranger.get("/")
    assert page.status_code == 200
    assert '"auth_required":true' in page.text
    assert "class_name" not in page.text
    for asset in ("/theme.css", "/favicon.ico", "/assets/none"):
        assert stranger.get(asset).status_code != 401
    assert stranger.post("/login", data={"username": "ann", "password": "right"}).json()["success"]
    assert stranger.get("/config").json()["username"] == "ann"
    assert "class_name" in stranger.get("/").text


def test_a_program_logs_in(locked):
    from gradio_client import Client

    client = Client(locked, auth=("ann", "right"), verbose=False, analytics_enabled=False)
    _, record = client.predict("dog", steps=1, api_name="/generate")
    assert record["class_name"] == "dog"
    client.close()


def test_wrong_passwords_wait_longer_every_time(stranger):
    def login(password: str) -> httpx.Response:
        return stranger.post("/login", data={"username": "ann", "password": password})

    answers = [login(f"wrong {number}") for number in range(FREE + 2)]
    assert [one.status_code for one in answers] == [400] * FREE + [429] * 2
    assert "too many wrong passwords from 127.0.0.1: try again in 1 second" in sentence_of(
        answers[-1]
    )
    assert answers[-1].headers["retry-after"] == "1"
    assert login("right").status_code == 429  # also the right one waits


def test_a_person_logs_in_and_is_told_to_wait(browser, locked):
    """Before the test above has made this address wait, or after: the page says which."""
    tab = browser.new_page(reduced_motion="reduce")
    tab.set_default_timeout(PATIENCE)
    tab.add_init_script(NO_TOUR)
    tab.goto(locked)
    tab.get_by_label("username").fill("ann")
    tab.get_by_label("password").fill("wrong")
    for _ in range(FREE + 2):
        tab.get_by_label("password").fill("wrong")
        with tab.expect_response("**/login"):
            tab.get_by_role("button", name="Login").click()
        if tab.locator("#wait").count():
            break
    tab.wait_for_selector("#wait:has-text('try again in')")
    tab.close()


def test_the_wait_doubles_and_ends():
    now = 0.0
    tries = Tries(lambda: now)
    for _ in range(FREE):
        tries.begin("1.2.3.4")
    waits = []
    for _ in range(12):
        with pytest.raises(
            Refusal, match=r"too many wrong passwords from 1\.2\.3\.4: try again in"
        ):
            tries.begin("1.2.3.4")
        try:
            tries.begin("1.2.3.4")
        except Refusal as refusal:
            waits.append(refusal.retry)
            now += refusal.retry
        tries.begin("1.2.3.4")
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == LONGEST
    tries.begin("5.6.7.8")  # nobody else waits
    now += LONGEST
    tries.begin("1.2.3.4")
    tries.succeed("1.2.3.4")
    for _ in range(FREE):
        tries.begin("1.2.3.4")


def files_below(folder: str) -> int:
    from pathlib import Path

    return sum(path.is_file() for path in Path(folder).rglob("*"))
