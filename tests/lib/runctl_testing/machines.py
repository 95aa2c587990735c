"""Local machines to test with: a provider, orders, and an agent that does as its boot file says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from runctl_controller.providers.local.provider import LocalProvider
from runctl_controller.providers.local.tags import INSTALLATION
from runctl_controller.providers.port import LaunchOrder, MachineState, Offer, Sighting
from runctl_shared.clock import SystemClock
from runctl_testing.eventually import eventually

OURS = "inst-00000001"

_OFFER = Offer(provider="local", kind="local", place="local", price=0.0, spot=True, notice=120.0)

# Runs on the machine, as an agent would. `say` puts a file where the test sees it also when the disk is gone.
_AGENT = '''
import json, os, signal, subprocess, sys, time, urllib.request

disk = sys.argv[sys.argv.index("--machine") + 1]
boot = json.load(open(os.path.join(disk, "boot.json")))

def say(name, text=""):
    spare = os.path.join(boot["out"], "." + name)
    open(spare, "w").write(text)
    os.rename(spare, os.path.join(boot["out"], name))

def daemon(name, env, stop=False, session=True):
    """A trainer that leaves the family: forked twice, deaf to SIGTERM."""
    if os.fork():
        return
    if session:
        os.setsid()
    if os.fork():
        os._exit(0)
    code = ("import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "signal.signal(signal.SIGHUP, signal.SIG_IGN);"
            "f = open(sys.argv[1] + '.new', 'w'); f.write(str(os.getpid())); f.close();"
            "os.rename(sys.argv[1] + '.new', sys.argv[1]);"
            + ("os.kill(os.getpid(), signal.SIGSTOP);" if stop else "") + "signal.pause()")
    os.execve(sys.executable, [sys.executable, "-c", code, os.path.join(boot["out"], "trainer-" + name)], env)

def imds(method, path, headers):
    url = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] + path
    ask = urllib.request.Request(url, method=method, headers=headers)
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask, timeout=10).read().decode()

def notice(name, path):
    while True:
        try:
            token = imds("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
            say(name, imds("GET", "/latest/meta-data/" + path, {"X-aws-ec2-metadata-token": token}))
            return
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            time.sleep(0.05)

say("began-%d" % os.getpid(), json.dumps(dict(os.environ)))
for word in boot["do"]:
    if word == "start":
        open(os.path.join(disk, "agent", "started"), "w").close()
    elif word == "secrets":
        say("secrets", open(os.path.join(disk, "secrets.json")).read())
    elif word == "crash-once":
        if not os.path.exists(os.path.join(disk, "crashed")):
            open(os.path.join(disk, "crashed"), "w").close()
            print("the agent fell over", file=sys.stderr, flush=True)
            os._exit(3)
    elif word == "crash":
        print("the agent fell over", file=sys.stderr, flush=True)
        os._exit(3)
    elif word == "daemons":
        daemon("marked", dict(os.environ))
        daemon("stopped", dict(os.environ), stop=True)
    elif word == "bare-daemon":
        daemon("bare", {})
    elif word == "bare-child":
        daemon("child", {}, session=False)
    elif word == "lock-disk":
        os.makedirs(os.path.join(disk, "checkpoints", "a", "b"))
        os.chmod(os.path.join(disk, "checkpoints", "a", "b"), 0)
        os.chmod(os.path.join(disk, "checkpoints", "a"), 0)
    elif word == "notice":
        notice("notice", "spot/instance-action")
    elif word == "rebalance":
        notice("rebalance", "events/recommendations/rebalance")
    elif word == "leave":
        sys.exit(0)
    elif word == "leave-when-told":
        while not os.path.exists(os.path.join(boot["out"], "leave")):
            time.sleep(0.05)
        sys.exit(0)
    say("did-" + word)
signal.pause()
'''


class LocalMachines:
    """A LocalProvider under `folder`, whose machines run the agent above. `out` is where that one reports."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "state" / "local"
        self.out = folder / "out"
        self.out.mkdir()
        self._script = folder / "agent.py"
        self._script.write_text(_AGENT)
        self.provider = self.another()

    def another(self, save_margin: float = 60.0, agent_command: Sequence[str] = ()) -> LocalProvider:
        """A provider of the same machines, as a second controller has it."""
        command = agent_command or (sys.executable, str(self._script))
        return LocalProvider(self.root, SystemClock(), agent_command=command, save_margin=save_margin)

    def order(
        self,
        machine: str = "agent-aaaa-1",
        *,
        do: Sequence[str] = ("start",),
        token: str = "",
        installation: str = OURS,
        secrets: tuple[str, ...] = (),
        hard_end: float = 3600.0,
        boot_limit: float = 600.0,
        tags: dict[str, str] | None = None,
    ) -> LaunchOrder:
        boot = {"spec": {"run": "run-aaaa"}, "do": list(do), "out": str(self.out)}
        return LaunchOrder(
            token=token or f"token-{machine}",
            machine=machine,
            offer=_OFFER,
            boot=msgspec.json.encode(boot),
            secrets=secrets,
            hard_end=hard_end,
            boot_limit=boot_limit,
            tags={INSTALLATION: installation, **(tags or {})},
        )

    def folder(self, order: LaunchOrder) -> Path:
        return self.root / "machines" / order.machine

    def sight(self, order: LaunchOrder) -> Sighting:
        return self.provider.describe([order])[0]

    def until(self, order: LaunchOrder, state: MachineState) -> Sighting:
        def there() -> bool:
            return self.sight(order).state is state

        eventually(there, what=f"{order.machine} {state.value}")
        return self.sight(order)

    def said(self, name: str) -> str:
        """What the agent reported under `name`, once it has."""
        eventually((self.out / name).exists, what=f"the agent to say {name}")
        return (self.out / name).read_text()

    def begun(self) -> list[int]:
        """The process ids of all agents that ever began."""
        return [int(path.name.removeprefix("began-")) for path in self.out.glob("began-*")]

    def host(self, order: LaunchOrder) -> psutil.Process:
        self.until(order, MachineState.RUNNING)
        state = msgspec.json.decode((self.folder(order) / "state.json").read_bytes())
        return psutil.Process(state["host_pid"])

    def end_all(self) -> None:
        """End whatever is left, of all installations; for after the test."""
        for path in self.root.glob("machines/*/order.json"):
            if not path.with_name("state.json").exists():
                continue
            order = self.order(path.parent.name, token=_token(path.with_name("state.json")))
            self.provider.terminate(order)
            self.until(order, MachineState.TERMINATED)


def alive(pid: int) -> bool:
    """Whether `pid` can still do anything; a zombie cannot."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _token(state: Path) -> str:
    return str(msgspec.json.decode(state.read_bytes())["token"])
