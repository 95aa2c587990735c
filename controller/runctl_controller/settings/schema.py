"""The keys, each with its rule, as pydantic-settings reads and checks them. Slow to load: see `load`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from runctl_controller.settings import rules
from runctl_controller.settings.places import PREFIX
from runctl_shared.errors import UsageError


def _by(rule: rules.Rule) -> BeforeValidator:
    def validate(value: object) -> object:
        try:
            return rule(value)
        except UsageError as error:
            said = {"what": error.what, "mend": error.mend}
            raise PydanticCustomError("runctl", "{what}", said) from None

    return BeforeValidator(validate)


def _means(text: str) -> Any:
    """What the setting means, with its unit: `runctl init` writes it into the file."""
    return Field(description=text)


Duration = Annotated[float, _by(rules.positive_seconds)]


class Said(BaseSettings):
    """What one place says; None where it says nothing. The defaults are those of `model.Settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, case_sensitive=True, extra="forbid", validate_default=False
    )

    state_dir: Annotated[
        str | None,
        _by(rules.folder),
        _means("Folder of this machine in which runctl keeps its state: runs, ledger, local machines."),
    ] = None
    bus_url: Annotated[
        str | None,
        _by(rules.optional(rules.bus_url)),
        _means(
            "URL of the RabbitMQ that controller and agents share: amqps://USER:PASSWORD@HOST:PORT/VHOST."
            " Empty: none, all runs on this machine. A file with a password must be yours alone (chmod 600)."
        ),
    ] = None
    bus_agents: Annotated[
        str | None,
        _by(rules.one_of(rules.BUS_AGENTS, "way to let agents in")),
        _means(
            "How agents are let in at that RabbitMQ: token or user (each as itself), or shared (all with the"
            " login of bus_url: whoever has a machine may do anything). See deploy/rabbitmq/README.md."
        ),
    ] = None
    bus_token_key: Annotated[
        str | None,
        _by(rules.optional(rules.file)),
        _means("For token: file (chmod 600) of the private key that signs agents' tokens."),
    ] = None
    bus_management: Annotated[
        str | None,
        _by(rules.optional(rules.management)),
        _means("For user: URL of RabbitMQ's management API, https://USER:PASSWORD@HOST:15671."),
    ] = None
    checkpoints: Annotated[
        str | None,
        _by(rules.optional(rules.store)),
        _means(
            "Where checkpoints are kept: a folder (relative to this file) or a URL. Empty: below state_dir."
        ),
    ] = None
    project: Annotated[
        str | None,
        _by(rules.as_in_a_run("project", rules.text)),
        _means("Project that runs belong to: a-z, 0-9, '.', '_' and '-'."),
    ] = None
    provider: Annotated[
        str | None, _by(rules.one_of(rules.PROVIDERS, "provider")), _means("Who rents the machines.")
    ] = None
    max_restarts: Annotated[
        int | None,
        _by(rules.as_in_a_run("max_restarts", rules.whole)),
        _means("How often a run is restarted after errors of its own (interruptions do not count)."),
    ] = None
    max_hours: Annotated[
        float | None,
        _by(rules.optional(rules.hours)),
        _means("Hours that a run may train, over all its attempts. Empty: without a limit."),
    ] = None
    grace: Annotated[
        float | None,
        _by(rules.as_in_a_run("grace", rules.seconds)),
        _means("Time that a training gets to save when it is asked to stop, such as 90s or 10m."),
    ] = None
    signal: Annotated[
        str | None,
        _by(rules.as_in_a_run("signal", rules.text)),
        _means("Signal that asks the training to save."),
    ] = None
    resume_arg: Annotated[
        str | None,
        _by(rules.optional(rules.as_in_a_run("resume_arg", rules.text))),
        _means(
            "Added to the command when there is something to resume; {path} becomes its path. Empty: nothing."
        ),
    ] = None
    lease: Annotated[
        Duration | None,
        _means(
            "How long a machine lives without a word from its controller or a new checkpoint, such as 15m."
        ),
    ] = None
    heartbeat: Annotated[
        Duration | None, _means("Time between two signs of life of an agent, such as 5s.")
    ] = None
    notice_poll: Annotated[
        Duration | None, _means("Time between two looks at whether the machine is to be taken, such as 1s.")
    ] = None
    idle: Annotated[
        float | None,
        _by(rules.seconds),
        _means("How long the controller that is started on demand stays with nothing to do, such as 60s."),
    ] = None
    log_level: Annotated[
        str | None,
        _by(rules.one_of(rules.LEVELS, "log level")),
        _means("What the controller logs: debug, info, warning, error or critical."),
    ] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """One place at a time, so that a wrong value is told even where a better place hides it."""
        return (init_settings,)
