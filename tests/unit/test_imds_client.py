"""The notices of EC2: a real HTTP server plays the metadata service, well and badly behaved."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from runctl_agent.notices import imds
from runctl_agent.notices.imds import ImdsSource
from runctl_agent.notices.imds_client import ImdsClient, ImdsDisabled, ImdsFailed, endpoint_from
from runctl_agent.notices.model import Notice
from runctl_agent.notices.read_imds import NOTICE_PATHS
from runctl_shared.clock import FakeClock, SystemClock
from runctl_shared.errors import UsageError
from runctl_testing.imds_server import SERVED_AT, ImdsServer, maintenance

TERMINATE = b'{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
REBALANCE = b'{"noticeTime": "2017-09-18T08:19:00Z"}'
SPOT = NOTICE_PATHS["interruption"]


@pytest.fixture
def server() -> Iterator[ImdsServer]:
    with closing(ImdsServer()) as imds_server:
        yield imds_server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(SERVED_AT)


@pytest.fixture
def client(server: ImdsServer, clock: FakeClock) -> Iterator[ImdsClient]:
    with closing(ImdsClient(server.url, clock)) as made:
        yield made


class Watch:
    """An ImdsSource that is polled by hand, and everything that it told."""

    def __init__(self, server: ImdsServer, clock: FakeClock) -> None:
        self.notices: list[Notice] = []
        self.troubles: list[str] = []
        self.clock = clock
        self.source = ImdsSource(
            clock, self.notices.append, endpoint=server.url, on_trouble=self.troubles.append
        )

    def poll(self, times: int = 1) -> float:
        """Poll so many times, each when the source wants to be; returns the last delay it asked for."""
        for _ in range(times):
            delay = self.source.poll()
            self.clock.advance(delay)
        return delay

    def told(self) -> list[tuple[str, str]]:
        return [(notice.id, notice.change) for notice in self.notices]

    def close(self) -> None:
        self.source.stop()


@pytest.fixture
def watch(server: ImdsServer, clock: FakeClock) -> Iterator[Watch]:
    with closing(Watch(server, clock)) as made:
        yield made


# -- tokens and connections


def test_a_token_is_fetched_once_and_kept_on_one_connection(server: ImdsServer, client: ImdsClient) -> None:
    server.answers[SPOT] = (200, TERMINATE)
    for _ in range(5):
        assert client.get(SPOT).body == TERMINATE
    assert server.asked("PUT", "/latest/api/token") == 1
    assert server.headers[0]["x-aws-ec2-metadata-token-ttl-seconds"] == "3600"
    assert not any("x-forwarded-for" in headers for headers in server.headers)
    assert server.connections == 1


def test_a_token_is_renewed_before_it_runs_out(
    server: ImdsServer, client: ImdsClient, clock: FakeClock
) -> None:
    client.get(SPOT)
    clock.advance(3200)
    client.get(SPOT)
    assert len(server.tokens) == 1
    clock.advance(200)
    client.get(SPOT)
    assert len(server.tokens) == 2


def test_the_service_decides_how_long_a_token_lasts(
    server: ImdsServer, client: ImdsClient, clock: FakeClock
) -> None:
    server.lifetime = "600"
    client.get(SPOT)
    clock.advance(400)
    client.get(SPOT)
    assert len(server.tokens) == 2


def test_a_failed_renewal_goes_on_with_the_old_token(
    server: ImdsServer, client: ImdsClient, clock: FakeClock
) -> None:
    client.get(SPOT)
    server.token_status = 500
    clock.advance(3400)
    assert client.get(SPOT).status == 404
    clock.advance(300)
    with pytest.raises(ImdsFailed):
        client.get(SPOT)


def test_a_refused_token_is_replaced_at_once(server: ImdsServer, client: ImdsClient) -> None:
    client.get(SPOT)
    server.tokens.append("the service restarted")
    server.answers[SPOT] = (200, TERMINATE)
    assert client.get(SPOT).status == 200


def test_a_service_that_refuses_its_own_token_is_tried_twice_only(
    server: ImdsServer, client: ImdsClient
) -> None:
    server.answers[SPOT] = (401, b"")
    with pytest.raises(ImdsFailed):
        client.get(SPOT)
    assert server.asked("GET", SPOT) == 2


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_no_token_is_a_failure(server: ImdsServer, client: ImdsClient, status: int) -> None:
    server.token_status = status
    with pytest.raises(ImdsFailed):
        client.get(SPOT)
    assert server.asked("GET", SPOT) == 0


def test_a_switched_off_service_is_told_apart(server: ImdsServer, client: ImdsClient) -> None:
    server.token_status = 403
    with pytest.raises(ImdsDisabled):
        client.get(SPOT)


def test_a_kept_connection_that_died_is_no_failure(server: ImdsServer, client: ImdsClient) -> None:
    server.close_after = True
    for _ in range(3):
        assert client.get(SPOT).status == 404


def test_a_service_that_hangs_up_is_a_failure(server: ImdsServer, client: ImdsClient) -> None:
    server.hang_up = 5
    with pytest.raises(ImdsFailed):
        client.get(SPOT)


def test_nobody_listening_is_a_failure(server: ImdsServer, clock: FakeClock) -> None:
    server.close()
    with closing(ImdsClient(server.url, clock)) as client, pytest.raises(ImdsFailed):
        client.get(SPOT)
    server.close = lambda: None  # type: ignore[method-assign]  # the fixture would close it again


def test_a_service_that_never_answers_is_a_failure(clock: FakeClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with closing(ImdsClient(url, clock, timeout=0.05)) as client, pytest.raises(ImdsFailed):
            client.get(SPOT)


def test_an_endless_answer_is_a_failure(server: ImdsServer, client: ImdsClient) -> None:
    server.answers[SPOT] = (200, b"x" * 1_000_000)
    with pytest.raises(ImdsFailed):
        client.get(SPOT)


def test_no_proxy_is_asked(server: ImdsServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with closing(ImdsClient(server.url, clock)) as client:
        assert client.get(SPOT).status == 404


@pytest.mark.parametrize("endpoint", ["169.254.169.254", "https://x", "http://", "http://a:b", "http://[::1"])
def test_an_address_that_is_none_is_refused_with_its_mend(endpoint: str, clock: FakeClock) -> None:
    with pytest.raises(UsageError, match="AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        ImdsClient(endpoint, clock)


def test_the_environment_names_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", raising=False)
    assert endpoint_from() == "http://169.254.169.254"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[fd00:ec2::254]/")
    assert endpoint_from() == "http://[fd00:ec2::254]/"
    assert endpoint_from("http://here") == "http://here"


# -- the source


def test_a_notice_is_told_once_however_often_it_is_served(server: ImdsServer, watch: Watch) -> None:
    watch.poll(3)
    assert watch.told() == []
    server.answers[SPOT] = (200, TERMINATE)
    watch.poll(10)
    assert watch.told() == [("interruption-terminate", "given")]
    del server.answers[SPOT]
    watch.poll(3)
    assert watch.told()[1:] == [("interruption-terminate", "withdrawn")]


def test_all_three_kinds_are_told_the_slow_ones_are_asked_for_less(server: ImdsServer, watch: Watch) -> None:
    for kind, body in (("rebalance", REBALANCE), ("maintenance", maintenance())):
        server.answers[NOTICE_PATHS[kind]] = (200, body)  # type: ignore[index]  # the kinds are literals
    server.answers[SPOT] = (200, TERMINATE)
    watch.poll(21)
    assert {notice.kind for notice in watch.notices} == {"interruption", "rebalance", "maintenance"}
    assert len(watch.notices) == 3
    assert server.asked("GET", SPOT) == 21
    assert server.asked("GET", NOTICE_PATHS["rebalance"]) == 5


def test_a_notice_that_a_dead_agent_told_is_withdrawn(server: ImdsServer, clock: FakeClock) -> None:
    told = list[Notice]()
    source = ImdsSource(clock, told.append, endpoint=server.url, standing=["interruption-terminate"])
    for _ in range(3):
        clock.advance(source.poll())
    source.stop()
    assert [(notice.id, notice.change) for notice in told] == [("interruption-terminate", "withdrawn")]


def test_a_cancelled_maintenance_is_withdrawn(server: ImdsServer, watch: Watch) -> None:
    server.answers[NOTICE_PATHS["maintenance"]] = (200, maintenance())
    watch.poll(2)
    server.answers[NOTICE_PATHS["maintenance"]] = (200, maintenance("canceled"))
    watch.poll(20)
    assert [change for _, change in watch.told()] == ["given", "withdrawn"]


@pytest.mark.parametrize(
    "bad", [(500, b""), (200, b"{"), (200, b'{"action":"stop","time":"soon"}'), (302, b"")]
)
def test_failures_are_counted_and_backed_off_gently_and_end(
    server: ImdsServer, watch: Watch, bad: tuple[int, bytes]
) -> None:
    server.answers[SPOT] = bad
    delays = [watch.poll() for _ in range(40)]
    assert max(delays) <= 5.0
    assert delays[0] > 1.0
    assert watch.source.failures == server.asked("GET", SPOT)
    assert watch.told() == []
    assert watch.troubles == [imds.UNHEARD]
    server.answers[SPOT] = (200, TERMINATE)
    watch.poll(10)
    assert watch.told() == [("interruption-terminate", "given")]
    assert watch.poll() <= 1.0


def test_a_failing_hint_does_not_slow_down_the_interruptions(server: ImdsServer, watch: Watch) -> None:
    server.answers[NOTICE_PATHS["rebalance"]] = (500, b"")
    watch.poll(30)
    assert server.asked("GET", SPOT) == 30
    assert watch.troubles == []


def test_failures_do_not_call_a_notice_off(server: ImdsServer, watch: Watch) -> None:
    server.answers[SPOT] = (200, TERMINATE)
    watch.poll()
    server.answers[SPOT] = (503, b"")
    watch.poll(20)
    assert watch.told() == [("interruption-terminate", "given")]


def test_a_switched_off_service_is_told_once_and_asked_slowly(server: ImdsServer, watch: Watch) -> None:
    server.token_status = 403
    delays = [watch.poll() for _ in range(10)]
    assert min(delays) >= imds.DISABLED_PAUSE
    assert watch.troubles == [imds.DISABLED]
    assert server.asked("PUT", "/latest/api/token") == 10
    server.token_status = 200
    server.answers[SPOT] = (200, TERMINATE)
    watch.poll()
    assert watch.told() == [("interruption-terminate", "given")]


def test_an_unreachable_service_is_asked_one_thing_at_a_time(server: ImdsServer, watch: Watch) -> None:
    server.hang_up = 10**6
    delays = [watch.poll() for _ in range(20)]
    assert min(delays) > 1.0
    assert max(delays) <= 5.0
    assert watch.source.failures == 20
    assert watch.troubles == [imds.UNHEARD]


def test_a_handler_that_fails_does_not_end_the_watch(server: ImdsServer, clock: FakeClock) -> None:
    calls = queue.Queue[str]()

    def handler(notice: Notice) -> None:
        calls.put(notice.change)
        raise RuntimeError("the handler is broken")

    source = ImdsSource(clock, handler, endpoint=server.url)
    server.answers[SPOT] = (200, TERMINATE)
    source.poll()
    del server.answers[SPOT]
    for _ in range(3):
        clock.advance(5)
        source.poll()
    source.stop()
    assert [calls.get_nowait(), calls.get_nowait()] == ["given", "withdrawn"]


def test_the_thread_tells_a_notice_and_stops(server: ImdsServer) -> None:
    told = queue.Queue[Notice]()
    source = ImdsSource(SystemClock(), told.put, endpoint=server.url, poll=0.01)
    source.start()
    try:
        server.answers[SPOT] = (200, TERMINATE)
        assert told.get(timeout=60).action == "terminate"
    finally:
        source.stop()
    assert "notices" not in [thread.name for thread in threading.enumerate()]
