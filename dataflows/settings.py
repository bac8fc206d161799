"""What a slot is told. Every option of `penstock run` is also `PENSTOCK_<OPTION>`, and so it reaches the slots."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from state.vault import KeyRefused, Vault

_PREFIX = "PENSTOCK_"


class SettingsInvalid(Exception):
    """An option or environment variable cannot be used."""


class Settings(BaseModel):
    """Options of `penstock run`. Passwords are in `client_config` or the environment, never in an argument."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    file: Path
    """The pipeline file."""
    bootstrap: str
    redis: SecretStr | None = None
    """URL of the feature store; may carry a password. Without it every view is unavailable."""
    job: str = "decisions"
    """Which of the pipeline's jobs; `dataflows.jobs` lists them."""
    group: str = ""
    """Consumer group, with which those of other jobs than `decisions` begin; the pipeline's name by default."""
    slots: int = Field(default=1, ge=1, le=256)
    slot: int = Field(default=0, ge=0, le=10_000)
    """Number of the first slot that this launcher runs."""
    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    client_config: Path | None = None
    """File of librdkafka properties, `name=value` a line."""
    session_timeout: float = Field(default=10.0, ge=6.0, le=1800.0)
    """Seconds after which the lanes of a silent slot move."""
    metrics_port: int = Field(default=9100, ge=1, le=65_000)
    """The launcher's port; slot n has the port `metrics_port + 1 + n`."""
    host: str = "127.0.0.1"
    """Address that metrics and health are served on."""
    seal_key: SecretStr | None = None
    seal_key_file: Path | None = None
    artefacts: str = "artefacts"
    """Folder or fsspec URL that release files are in."""
    watchdog: float = Field(default=30.0, ge=2.0, le=600.0)
    """A slot that has not polled, or has been at one commit, for so long is ended. A client call can ignore its
    time-out and hang while heartbeats keep the lanes: seen for 150 s after an outage. Client calls take up to 15 s."""
    lane_store: Path | None = None
    """Folder for lane state that outgrows memory; without it all of it is in memory."""

    @field_validator("redis")
    @classmethod
    def _is_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            from state.redis_address import Address  # noqa: PLC0415 -- half a second, and not everybody has a Redis

            Address.parse(url.get_secret_value())
        return url

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read `PENSTOCK_<OPTION>`.

        Raises:
            SettingsInvalid: naming each variable that is missing or cannot be used, without its value.
        """
        given = {
            name.removeprefix(_PREFIX).lower(): value for name, value in environment.items() if name.startswith(_PREFIX)
        }
        try:
            return cls.model_validate({name: value for name, value in given.items() if value})
        except ValidationError as error:
            wrong = [
                f"{_PREFIX}{str(e['loc'][0]).upper()}: {e['msg'].lower()}" for e in error.errors(include_input=False)
            ]
            raise SettingsInvalid("; ".join(wrong)) from None

    def to_environment(self) -> dict[str, str]:
        """Write the same variables, for processes that may run in another folder: paths are absolute in them."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        if "://" not in self.artefacts:
            values["artefacts"] = Path(self.artefacts)
        return {_PREFIX + name.upper(): _text(value) for name, value in values.items() if value is not None}

    def connection(self) -> dict[str, Any]:
        """Properties that every Kafka client shares.

        Raises:
            SettingsInvalid: the file cannot be read or has a line that is not `name=value`.
        """
        properties: dict[str, Any] = {}
        if self.client_config is not None:
            try:
                lines = self.client_config.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsInvalid(f"could not read the client config {self.client_config}: {error}") from None
            for number, line in enumerate(map(str.strip, lines), 1):
                if not line or line.startswith("#"):
                    continue
                name, equals, value = line.partition("=")
                if not equals:
                    raise SettingsInvalid(f"{self.client_config}:{number}: expected name=value")
                properties[name.strip()] = value.strip()
        return {**properties, "bootstrap.servers": self.bootstrap}


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value.absolute() if isinstance(value, Path) else value)


def open_vault(settings: Settings) -> Vault:
    """Take the sealing key from the settings.

    Raises:
        SettingsInvalid: there is none, and Penstock does not start without; or it is not a key.
    """
    try:
        if settings.seal_key is not None:
            return Vault.from_base64(settings.seal_key.get_secret_value())
        if settings.seal_key_file is not None:
            return Vault.from_file(settings.seal_key_file)
    except KeyRefused as refused:
        raise SettingsInvalid(str(refused)) from None
    raise SettingsInvalid(
        "no key to seal rejected and quarantined records with: set PENSTOCK_SEAL_KEY, or --seal-key-file FILE, to 32 "
        "random bytes in base64, such as `openssl rand -base64 32` prints"
    )
