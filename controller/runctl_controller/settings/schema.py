"""The keys, each with its rule, as pydantic-settings reads and checks them. Slow to load: see `load`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
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


Duration = Annotated[float, _by(rules.positive_seconds)]


class Said(BaseSettings):
    """What one place says; None where it says nothing. The defaults are those of `model.Settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, case_sensitive=True, extra="forbid", validate_default=False
    )

    state_dir: Annotated[str | None, _by(rules.folder)] = None
    bus_url: Annotated[str | None, _by(rules.optional(rules.bus_url))] = None
    checkpoints: Annotated[str | None, _by(rules.optional(rules.store))] = None
    project: Annotated[str | None, _by(rules.as_in_a_run("project", rules.text))] = None
    provider: Annotated[str | None, _by(rules.one_of(rules.PROVIDERS, "provider"))] = None
    max_restarts: Annotated[int | None, _by(rules.as_in_a_run("max_restarts", rules.whole))] = None
    max_hours: Annotated[float | None, _by(rules.optional(rules.hours))] = None
    grace: Annotated[float | None, _by(rules.as_in_a_run("grace", rules.seconds))] = None
    signal: Annotated[str | None, _by(rules.as_in_a_run("signal", rules.text))] = None
    resume_arg: Annotated[str | None, _by(rules.optional(rules.as_in_a_run("resume_arg", rules.text)))] = None
    lease: Duration | None = None
    heartbeat: Duration | None = None
    notice_poll: Duration | None = None
    idle: Annotated[float | None, _by(rules.seconds)] = None
    log_level: Annotated[str | None, _by(rules.one_of(rules.LEVELS, "log level"))] = None

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
