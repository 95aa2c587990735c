"""The metadata service of a local machine is as strict as EC2's: an agent that is sloppy here fails here."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator

import pytest

from runctl_controller.providers.local.imds import Metadata, MetadataServer, Request, respond, utc
from runctl_shared.clock import FakeClock

KEY = b"k" * 32
TTL = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "x-aws-ec2-metadata-token"
META = "/latest/meta-data/"
CALM = Metadata(instance_id="agent-aaaa-1", zone="here-1a", launched_at=1_700_000_000.0)


def put(headers: dict[str, str], path: str = "/latest/api/token", now: float = 0.0) -> int:
    return respond(Request("PUT", path, headers), CALM, KEY, now).status


def token(ttl: int = 60, now: float = 0.0, key: bytes = KEY) -> str:
    response = respond(Request("PUT", "/latest/api/token", {TTL: str(ttl)}), CALM, key, now)
    assert response.status == 200
    return response.body.decode()


def get(path: str, metadata: Metadata = CALM) -> tuple[int, str]:
    response = respond(Request("GET", path, {TOKEN: token()}), metadata, KEY, 1.0)
    return response.status, response.body.decode()


@pytest.mark.parametrize(
    ("ttl", "status"), [("1", 200), ("21600", 200), ("0", 400), ("21601", 400), ("-1", 400)]
)
def test_a_token_lives_up_to_six_hours(ttl: str, status: int) -> None:
    assert put({TTL: ttl}) == status


@pytest.mark.parametrize("ttl", ["", "abc", "1.5", "1e3", " 60", "٦٠", "9" * 5000])
def test_a_lifetime_that_is_no_number_is_refused(ttl: str) -> None:
    assert put({TTL: ttl}) == 400


def test_a_token_is_not_given_without_a_lifetime_or_through_a_proxy_or_elsewhere() -> None:
    assert put({}) == 400
    assert put({TTL: "60", "x-forwarded-for": ""}) == 403
    assert put({TTL: "60"}, path="/2021-03-23/api/token") == 403
    assert put({TTL: "60"}, path=META + "instance-id") == 405


def test_the_answer_says_how_long_the_token_lives() -> None:
    response = respond(Request("PUT", "/latest/api/token", {TTL: "60"}), CALM, KEY, 0.0)
    assert {k.lower(): v for k, v in response.headers.items()}[TTL] == "60"


@pytest.mark.parametrize("path", [META + "instance-id", META + "nowhere", "/"])
@pytest.mark.parametrize(
    "bad", ["", "x", "60.000-", "9999999999.000-00", "nan-00", "é", "-", token(key=b"o" * 32)]
)
def test_nothing_is_told_without_a_good_token(path: str, bad: str) -> None:
    for headers in ({}, {TOKEN: bad}):
        assert respond(Request("GET", path, headers), CALM, KEY, 0.0).status == 401


def test_a_token_expires() -> None:
    given = token(ttl=60, now=100.0)
    ask = Request("GET", META + "instance-id", {TOKEN: given})
    assert respond(ask, CALM, KEY, 159.9).status == 200
    assert respond(ask, CALM, KEY, 160.0).status == 401
    stretched = given.replace("160.000", "960.000")
    assert respond(Request("GET", ask.path, {TOKEN: stretched}), CALM, KEY, 160.0).status == 401


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_other_methods_are_refused(method: str) -> None:
    assert respond(Request(method, META + "instance-id", {TOKEN: token()}), CALM, KEY, 0.0).status == 405


def test_a_token_cannot_be_got_by_get() -> None:
    assert get("/latest/api/token")[0] == 405


@pytest.mark.parametrize(
    "path", ["/", "/latest/", META, META + "iam/security-credentials/", "/x/meta-data/instance-id"]
)
def test_what_there_is_not_is_not_found(path: str) -> None:
    assert get(path)[0] == 404


def test_what_the_machine_is() -> None:
    assert get(META + "instance-id") == (200, "agent-aaaa-1")
    assert get("/2021-03-23/meta-data/instance-id") == (200, "agent-aaaa-1")
    assert get(META + "instance-life-cycle") == (200, "spot")
    # With the slash at the end that SDKs put there.
    assert get(META + "placement/availability-zone/") == (200, "here-1a")
    assert get(META + "autoscaling/target-lifecycle-state") == (200, "InService")
    document = json.loads(get("/latest/dynamic/instance-identity/document")[1])
    assert (document["instanceId"], document["availabilityZone"]) == ("agent-aaaa-1", "here-1a")


def test_there_is_no_notice_until_there_is() -> None:
    for path in ("spot/instance-action", "spot/termination-time", "events/recommendations/rebalance"):
        assert get(META + path)[0] == 404
    assert get(META + "events/maintenance/scheduled") == (200, "[]")


def test_notices_look_like_those_of_ec2() -> None:
    doomed = Metadata(
        instance_id="agent-aaaa-1",
        taken_at=1_700_000_120.9,
        rebalance_at=1_700_000_000.0,
        maintenance=({"Code": "system-reboot"},),
    )
    action = json.loads(get(META + "spot/instance-action", doomed)[1])
    # Cut, not rounded: the machine is never taken before the time that it was told.
    assert action == {"action": "terminate", "time": "2023-11-14T22:15:20Z"}
    assert get(META + "spot/termination-time", doomed)[1] == "2023-11-14T22:15:20Z"
    rebalance = json.loads(get(META + "events/recommendations/rebalance", doomed)[1])
    assert rebalance == {"noticeTime": "2023-11-14T22:13:20Z"}
    assert json.loads(get(META + "events/maintenance/scheduled", doomed)[1]) == [{"Code": "system-reboot"}]


def test_times_are_utc() -> None:
    assert utc(0.0) == "1970-01-01T00:00:00Z"


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    server = MetadataServer(CALM, FakeClock())
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def client(server: MetadataServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"), timeout=30)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    client: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    client.request(method, path, headers=headers or {})
    response = client.getresponse()
    return response.status, response.read().decode()


def log_in(client: http.client.HTTPConnection) -> dict[str, str]:
    status, text = ask(client, "PUT", "/latest/api/token", {TTL: "60"})
    assert status == 200
    return {TOKEN: text}


def test_over_the_wire_on_one_connection(client: http.client.HTTPConnection) -> None:
    headers = log_in(client)
    client.request("GET", META + "instance-id?x=1", headers={TOKEN.upper(): headers[TOKEN]})
    response = client.getresponse()
    assert (response.status, response.read()) == (200, b"agent-aaaa-1")
    assert response.headers["Server"] == "EC2ws"
    client.request("HEAD", META + "instance-id", headers=headers)
    response = client.getresponse()
    assert (response.status, response.headers["Content-Length"], response.read()) == (200, "12", b"")
    assert ask(client, "GET", META + "spot/instance-action", headers)[0] == 404
    assert ask(client, "BREW", META, headers)[0] == 405


def test_a_notice_is_served_from_the_moment_it_is_given(
    server: MetadataServer, client: http.client.HTTPConnection
) -> None:
    headers = log_in(client)
    assert ask(client, "GET", META + "spot/termination-time", headers)[0] == 404
    server.metadata = Metadata(instance_id="agent-aaaa-1", taken_at=0.0)
    assert ask(client, "GET", META + "spot/termination-time", headers) == (200, "1970-01-01T00:00:00Z")


def test_a_body_is_not_taken_for_the_next_request(client: http.client.HTTPConnection) -> None:
    client.request("PUT", "/latest/api/token", body=b"GET / HTTP/1.1\r\n\r\n", headers={TTL: "60"})
    response = client.getresponse()
    assert (response.status, response.headers["Connection"]) == (200, "close")
    response.read()


def test_all_tokens_can_expire_at_once(server: MetadataServer, client: http.client.HTTPConnection) -> None:
    headers = log_in(client)
    server.expire_tokens()
    assert ask(client, "GET", META + "instance-id", headers)[0] == 401
    assert ask(client, "GET", META + "instance-id", log_in(client))[0] == 200


def test_so_many_requests_fail_as_were_asked_to(
    server: MetadataServer, client: http.client.HTTPConnection
) -> None:
    headers = log_in(client)
    server.fail(failures=2, status=503)
    seen = [ask(client, "GET", META + "instance-id", headers)[0] for _ in range(3)]
    assert seen == [503, 503, 200]


def test_a_request_hangs_until_it_is_let_go(
    server: MetadataServer, client: http.client.HTTPConnection
) -> None:
    headers = log_in(client)
    server.fail(hang=True)
    answered = threading.Event()

    def wait_for_it() -> None:
        ask(client, "GET", META + "instance-id", headers)
        answered.set()

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    assert not answered.wait(0.2)
    server.fail()
    thread.join(30)
    assert answered.is_set()


def test_stopping_lets_hanging_requests_go_and_closes_the_port(
    server: MetadataServer, client: http.client.HTTPConnection
) -> None:
    headers = log_in(client)
    server.fail(hang=True)
    client.request("GET", META + "instance-id", headers=headers)
    server.stop()
    with pytest.raises((http.client.HTTPException, OSError)):
        client.getresponse()
    client.close()
    with pytest.raises(OSError, match="refused"):
        client.connect()
    server.stop()


def test_a_server_that_never_started_can_be_stopped() -> None:
    MetadataServer(CALM, FakeClock()).stop()
