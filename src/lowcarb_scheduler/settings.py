"""Settings of a run, read from code, options, run-config, environment and ``.env``.

A name means the same in each of these places. Precedence:
keyword > option ``--x`` > run-config ``lowcarb-x`` > environment ``LOWCARB_X`` > ``.env``.
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from lowcarb_scheduler import userfiles
from lowcarb_scheduler.clock import format_time, parse_time
from lowcarb_scheduler.errors import InputError, near_miss
from lowcarb_scheduler.userfiles import parsed
from lowcarb_scheduler.validation import name_problem, path_problem

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    Values = Mapping[str, Any] | None

RUN_CONFIG_PREFIX: Final = "lowcarb-"
ENVIRONMENT_PREFIX: Final = "LOWCARB_"
# Older run-configs and environments still use these.
FORMER_NAMES: Final = {"sdk_url": "carbon_aware_sdk_url", "uk_url": "uk_carbon_intensity_url"}
SECRETS: Final = ("electricity_maps_token", "sdk_auth", "watttime_password", "watttime_user")
WEBHOOK: Final = "notify_url"  # whose path is as good as a password: taken from anywhere, but never shown
_LONGEST: Final = timedelta(days=3650)


def _limited(value: datetime | timedelta) -> datetime | timedelta:
    """Refuse a duration that is not positive or endless."""
    if isinstance(value, timedelta) and not timedelta(0) < value <= _LONGEST:
        raise ValueError("give a positive duration, at most ten years")
    return value


def _participation(value: object) -> object:
    """Read ``auto``, ``equal``, ``any`` or two whole numbers such as ``2,5``."""
    if isinstance(value, str) and "," in value:
        # A run-config or variable has no lists, so bounds are text with a comma there.
        value = [int(bound) for bound in value.split(",")]
    if isinstance(value, list | tuple) and not (len(value) == 2 and 0 <= value[0] <= value[1]):
        raise ValueError("give auto, equal, any, or least and most turns such as 2,5")
    return tuple(value) if isinstance(value, list) else value


def _balance(value: object) -> object:
    """Read ``off``, ``auto`` or a number of rounds of clients."""
    if value in ("off", "auto") or (isinstance(value, bool) and not value):
        return value or "off"
    try:
        reach = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        reach = -1.0
    if isinstance(value, bool) or not 0 <= reach < float("inf"):
        raise ValueError("give auto, off, or a number of rounds such as 1.2")
    return reach


def _over_select(value: object) -> object:
    """Read ``off``, ``auto`` or a probability between 0 and 1."""
    # TOML has no off but false, which means the same here.
    if value in ("off", "auto") or (isinstance(value, bool) and not value):
        return value or "off"
    try:
        # A probability is text in an environment variable.
        target = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        target = 0.0
    if isinstance(value, bool) or not 0 < target < 1:
        raise ValueError("give off, auto, or a probability between 0 and 1 such as 0.9")
    return target


def _switched(value: object) -> object:
    """Read ``false`` and ``true``, the switches that TOML has, as ``off`` and ``auto``."""
    return {False: "off", True: "auto"}[value] if isinstance(value, bool) else value


def _output_average(value: object) -> object:
    """Read ``off``, ``auto`` or a number of models."""
    value = _switched(value)
    if value in ("off", "auto"):
        return value
    if not (str(value).isdecimal() and 0 < int(str(value)) < 10**9):
        raise ValueError("give off, auto, or a number of models such as 10")
    return int(str(value))


def _size(value: object) -> int:
    """Read a number of bytes, or text such as ``512MiB`` or ``2GB``."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*(?:([KMGT])(i?)B|B)?\s*", str(value), re.IGNORECASE)
    if match is None or isinstance(value, bool):
        raise ValueError("give a size such as 512MiB or 2GiB")
    number, letter, is_binary = match.groups()
    power = "KMGT".index(letter.upper()) + 1 if letter else 0
    return int(float(number) * (1024 if is_binary else 1000) ** power)


def _location(value: str) -> str:
    """Refuse a name that can be neither sent nor shown."""
    if problem := name_problem(value):
        raise ValueError(problem)
    return value


def _webhook(value: str) -> str:
    """Refuse an address that nothing can be posted to; the message shows nothing of it."""
    import httpx  # only where the setting is given: it takes a while

    value = value.strip()
    try:
        url = httpx.URL(value)
        is_address = url.scheme in ("http", "https") and url.host and url.port != 0 and not url.fragment
    except (httpx.InvalidURL, UnicodeError):
        is_address = False
    if not is_address or " " in value:
        raise ValueError("is no address that begins with http:// or https://")
    return value


def _clock(value: object) -> str:
    """Read ``system``, ``virtual`` or ``virtual:TIME``."""
    if value in ("system", "virtual"):
        return str(value)
    kind, _, start = str(value).partition(":")
    if kind != "virtual":
        raise ValueError("give system, virtual, or virtual:2026-01-31T18:00Z")
    # In UTC, so that the ledger stores one spelling of the same start.
    return f"virtual:{format_time(parsed(parse_time, start))}"


Duration = Annotated[userfiles.Duration, AfterValidator(_limited)]
Deadline = Annotated[userfiles.Deadline, AfterValidator(_limited)]
Turns = Annotated[Literal["auto", "equal", "any"] | tuple[int, int], BeforeValidator(_participation)]
Balance = Annotated[Literal["auto", "off"] | float, BeforeValidator(_balance)]
OverSelect = Annotated[Literal["off", "auto"] | float, BeforeValidator(_over_select)]
Correction = Annotated[Literal["auto", "off", "location", "node"], BeforeValidator(_switched)]
OutputAverage = Annotated[Literal["off", "auto"] | int, BeforeValidator(_output_average)]
Size = Annotated[int, BeforeValidator(_size)]
ClockName = Annotated[str, BeforeValidator(_clock)]
Webhook = Annotated[str, AfterValidator(_webhook)]


def _with_former_names(source: PydanticBaseSettingsSource) -> PydanticBaseSettingsSource:
    """Let a source read a field under its former name where the current name is not set."""
    assert isinstance(source, EnvSettingsSource)
    for former, current in FORMER_NAMES.items():
        former, current = (f"{ENVIRONMENT_PREFIX}{name}".lower() for name in (former, current))
        if former in source.env_vars:
            source.env_vars = {current: source.env_vars[former], **source.env_vars}
    return source


class Settings(BaseSettings):
    """Settings of a run; build them with :meth:`load`."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_file=".env", extra="ignore", frozen=True, allow_inf_nan=False,
        env_ignore_empty=True, use_attribute_docstrings=True,
    )  # fmt: skip

    # The text below a field is its description, shown in errors and docs/reference/settings.md.

    enabled: bool = True
    """switch of the scheduler: `false` leaves the strategy unchanged; default `true`"""
    source: str | None = None
    """forecast source: `carbon-aware-sdk`, `electricity-maps`, `synthetic`, `traces`, `uk-carbon-intensity`,
    `watttime`, or several in fallback order, separated by commas; without a source no round waits"""
    # A URL may hold a password, so repr leaves it out.
    carbon_aware_sdk_url: str | None = Field(None, repr=False)
    """address of the Carbon Aware SDK WebAPI, for example `http://localhost:8080`"""
    sdk_signal: Literal["average", "marginal", "unknown"] = "unknown"
    """signal that this server is configured for: `average`, `marginal` or `unknown` (default)"""
    uk_carbon_intensity_url: str = "https://api.carbonintensity.org.uk"
    """address of the UK Carbon Intensity API; default `https://api.carbonintensity.org.uk`"""
    electricity_maps_url: str = "https://api.electricitymaps.com"
    """address of Electricity Maps; default `https://api.electricitymaps.com`"""
    watttime_url: str = "https://api.watttime.org"
    """address of WattTime; default `https://api.watttime.org`"""
    traces: Path | None = None
    """trace file of the source `traces`, CSV or Parquet"""
    traces_signal: Literal["average", "marginal", "unknown"] = "unknown"
    """signal of the values in the trace files: `average`, `marginal` or `unknown` (default)"""
    traces_actual: Path | None = None
    """trace file of actual intensity, if the file of `traces` holds issued forecasts"""
    timeout: Duration = timedelta(seconds=30)
    """time limit of one look-up of forecasts; default `30s`"""
    finish_by: Deadline | None = None
    """deadline: a time, or a duration from the start of the run"""
    patience: float = Field(1.0, ge=0, le=1)
    """trade-off of time and carbon, from 0 (back-to-back now) to 1 (cleanest by the deadline, default)"""
    clients_per_round: int | None = Field(None, ge=1)
    """number of clients that train in a round; default: as many as the inner strategy samples"""
    round_duration: Duration | None = None
    """length of a whole round; default: as measured in earlier runs of the job, else in the first round"""
    learn_durations: bool = True
    """permission to learn the durations of rounds from earlier runs of the same job, whose folders lie beside
    that of the run; default `true`"""
    participation: Turns = "auto"
    """turns per client: `auto` (default; with participation correction turns differ by location as far as
    random sampling lets them differ by chance, without it they are equal), `equal`, `any`, or bounds such as
    `2,5`"""
    stagger: bool = False
    """permission for clients to start at different times inside a round; default `false`"""
    max_location_share: float = Field(1.0, gt=0, le=1)
    """largest part of a round's clients from one location, above 0 to 1 (default)"""
    mix_rounds: int | None = Field(None, ge=1)
    """number of rounds after which turns are shared out equally anew (with equal turns), for data that
    differs by location; default: all rounds of the run"""
    participation_correction: Correction = "auto"
    """correction of the model for locations that a round has too much or too little of: `auto` (where it
    applies, default), `off`, `location` (one memory a location) or `node` (one a node)"""
    participation_correction_memory: Size = 2 << 30
    """memory for that correction, such as `512MiB` or `4GiB`; what does not fit lies in the run-dir;
    default `2GiB`"""
    keep_correction_memory: bool = False
    """whether the memory of the correction stays in the run-dir after the run; default `false`: deleted"""
    output_average: OutputAverage = "off"
    """result of a run: the last model (`off`, default), the mean of the last so many models (a number), or
    `auto`: the mean of the second half where the correction is off, as with differential privacy"""
    balance: Balance = "auto"
    """largest distance of each location's turns so far from its share of all turns so far, in rounds of
    clients: `auto` (default; 1.2 with participation correction, 0.8 without, 0.2 with an adaptive server such
    as FedAdam), a number, or `off`"""
    max_hold: Duration | None = None
    """longest time that one round is held; default: as long as the deadline allows"""
    deadline_confidence: float = Field(0.99, gt=0, lt=1)
    """least probability that waiting does not make an on-time run late; default 0.99"""
    on_late: Literal["finish", "stop"] = "finish"
    """reaction if the deadline can no longer be met: `finish` all rounds (default), or `stop` after the last
    round that meets it"""
    over_select: OverSelect = "off"
    """extra nodes in a round, so that enough reply: `off` (default), `auto` (enough in 19 of 20 rounds), or a
    probability such as `0.9`; based on the observed rate of drop-outs"""
    locations: Path | None = None
    """absolute path of the TOML file that lists the locations of nodes"""
    default_location: Annotated[str, AfterValidator(_location)] | None = None
    """location of nodes for which no other location is known"""
    default_power_watts: float = Field(300.0, ge=0, le=1e6)
    """power of nodes that do not state theirs [W]; default 300, marked as assumed"""
    evaluate_on: Literal["strategy", "planned", "all", "none"] = "strategy"
    """nodes that evaluate: as the `strategy` samples from all that are connected (default), `planned` (those
    that have just trained), `all` or `none`"""
    telemetry: bool | None = None
    """permission to ask nodes for the duration and the energy of their turns; default `true`, with
    differential privacy `false`"""
    energy: Literal["measured", "estimated"] = "measured"
    """energy of a turn: `measured` by nodes that have the extra `energy` (default), or `estimated` everywhere
    as power times time"""
    run_dir: Path | None = None
    """folder for the ledger; default `runs/<UTC time>-<run id>` where the ServerApp runs"""
    # An empty text cannot switch the archive off, because empty means not given.
    archive_dir: Path | Literal["none"] | None = None
    """folder for archived forecasts and actual intensity, or `none`; default the user's data folder, on Linux
    `$XDG_DATA_HOME/lowcarb-scheduler` or `~/.local/share/lowcarb-scheduler`"""
    archive_days: int = Field(60, ge=1, le=3650)
    """number of days for which the archive keeps data; default 60"""
    # Its path is a secret, so repr leaves it out.
    notify_url: Webhook | None = Field(None, repr=False)
    """URL of a webhook that receives a JSON message when a run waits for longer than an hour, degrades, is
    late or ends"""
    clock: ClockName = "system"
    """clock of the run: `system` (default); in simulations `virtual` or `virtual:TIME`, which jumps through
    holds"""

    # SecretStr hides these in repr, logs and dumps; Settings.load refuses them where they would be logged.
    sdk_auth: SecretStr | None = None
    """credentials for a proxy in front of the SDK: `user:password`, or `Bearer` and a token"""
    electricity_maps_token: SecretStr | None = None
    """`auth-token` of Electricity Maps"""
    watttime_user: SecretStr | None = None
    """user name at WattTime"""
    watttime_password: SecretStr | None = None
    """password at WattTime"""

    @field_validator(
        "patience", "clients_per_round", "max_location_share", "mix_rounds", "deadline_confidence",
        "default_power_watts", "archive_days", mode="before",
    )  # fmt: skip
    @classmethod
    def _refuse_switch(cls, value: object) -> object:
        # A bool is an int in Python: true would pass as 1.
        if isinstance(value, bool):
            raise ValueError("give a number, not a switch")
        return value

    @field_validator("run_dir", "locations", "traces", "traces_actual", "archive_dir", mode="after")
    @classmethod
    def _check_path(cls, value: Path | str | None) -> Path | str | None:
        if isinstance(value, Path) and (problem := path_problem(value)):
            raise ValueError(problem)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read environment and ``.env`` with former names."""
        return (
            init_settings,
            _with_former_names(env_settings),
            _with_former_names(dotenv_settings),
            file_secret_settings,
        )

    @classmethod
    def load(
        cls,
        keywords: Values = None,
        options: Values = None,
        run_config: Values = None,
        unset: Collection[str] = (),
    ) -> Settings:
        """Read the settings from all their places.

        Parameters
        ----------
        keywords : mapping, optional
            Arguments given in code, by field name.
        options : mapping, optional
            Options of the command line, by field name; None is not given.
        run_config : mapping, optional
            Flower's run-config, of which only keys with ``lowcarb-`` are read. An empty string is not given.
        unset : collection of str
            Fields that keep their default, wherever they are written.

        Raises
        ------
        InputError
            For an unknown name or an impossible value; names the place of the setting.
        """
        given, written = cls._given(keywords, options, run_config)
        # Doctor leaves out impossible settings one by one, to report all of them.
        given |= {field: cls.model_fields[field].default for field in unset}
        try:
            return cls(_secrets_dir=_secrets_dir(), **given)  # type: ignore[call-arg]
        except UnicodeDecodeError:
            raise InputError(".env", "is not UTF-8 text", "save it as UTF-8") from None
        except ValidationError as error:
            detail = error.errors()[0]
            field = str(detail["loc"][0])
            label = written.get(field, ENVIRONMENT_PREFIX + field.upper())
            message = detail["msg"].removeprefix("Value error, ")
            if detail["type"].startswith("bool_"):
                message = "give true or false"  # pydantic names neither
            # pydantic's message repeats the input, which is a secret here.
            if field in (*SECRETS, WEBHOOK):  # never show what was given
                raise InputError(label, message, _meaning(field)) from None
            raise InputError(label, f"{detail['input']!r:.80}: {message}", _meaning(field)) from None

    def shown(self) -> dict[str, Any]:
        """Return the settings for logs and ledgers, without secrets and without credentials in URLs."""
        given = self.model_dump(mode="json")
        shown = {name: _masked_url(value) if name.endswith("_url") and value else value
                 for name, value in given.items()}  # fmt: skip
        return shown if self.notify_url is None else {**shown, WEBHOOK: masked_webhook(self.notify_url)}

    @classmethod
    def origins(
        cls, keywords: Values = None, options: Values = None, run_config: Values = None
    ) -> dict[str, str]:
        """Return the place of each given field, for example ``environment`` or ``--source``.

        The parameters are those of :meth:`load`, which is called first: it refuses what cannot be read.
        """
        places = (
            ("secrets file", SecretsSettingsSource(cls, _secrets_dir())),
            (".env", _with_former_names(DotEnvSettingsSource(cls))),
            ("environment", _with_former_names(EnvSettingsSource(cls))),
        )
        # Later places override earlier ones, as they do for the values.
        origins = {
            field: place for place, fields in places for field in fields() if field in cls.model_fields
        }
        return origins | cls._given(keywords, options, run_config)[1]

    @classmethod
    def _given(
        cls, keywords: Values, options: Values, run_config: Values
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the values from code, options and run-config, and their labels there, by field name."""
        # Such a key would be ignored silently, because settings begin with lowcarb-.
        for key in run_config or {}:
            spelt = key.lower().replace("_", "-")
            if spelt.startswith(RUN_CONFIG_PREFIX) and not key.startswith(RUN_CONFIG_PREFIX):
                raise InputError(key, "is no setting", f"write {spelt}")
        ours = {
            key.removeprefix(RUN_CONFIG_PREFIX): value
            for key, value in (run_config or {}).items()
            if key.startswith(RUN_CONFIG_PREFIX) and value != ""
        }
        places = (
            ({key: f"{RUN_CONFIG_PREFIX}{key}" for key in ours}, ours),
            ({key: f"--{key.replace('_', '-')}" for key in options or {}}, options or {}),
            ({key: key for key in keywords or {}}, keywords or {}),
        )
        # Later places override earlier ones: run-config, then options, then keywords.
        given: dict[str, Any] = {}
        written: dict[str, str] = {}
        for labels, values in places:
            for key, value in values.items():
                field = key.replace("-", "_")
                field = FORMER_NAMES.get(field, field)
                if field not in cls.model_fields:
                    raise _unknown(labels[key], key, cls)
                if field in SECRETS:
                    raise InputError(
                        labels[key], "is a secret, which is not taken from here", secret_fix(field)
                    )
                if value is not None:
                    given[field], written[field] = value, labels[key]
        return given, written


def _masked_url(url: str) -> str:
    """Return a URL without user and password, which may hold any character, and without its query."""
    scheme, slashes, rest = url.partition("//") if "//" in url else ("", "", url)
    credentials, at, place = rest.rpartition("@")
    if any(
        sign in credentials for sign in "?#"
    ):  # the address may as well end there, and be followed by a token
        return f"{scheme}{slashes}***"
    return f"{scheme}{slashes}{'***' * bool(at)}{at}" + re.sub(r"(?<=[?#]).*", "***", place, flags=re.DOTALL)


def masked_webhook(url: str) -> str:
    """Return scheme and host of the address of a webhook: user, password, path and query are its secrets."""
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    # A password with a slash ends the host early; the address may as well have an @ in its path.
    place = "***" if "@" in url and not at else f"{host}/***"
    return f"{parts.scheme}://{place}"


def _secrets_dir() -> Path | None:
    """Return the folder of ``LOWCARB_SECRETS_DIR``: one file a secret, named like its variable.

    Raises
    ------
    InputError
        If it is no folder.
    """
    variable = f"{ENVIRONMENT_PREFIX}SECRETS_DIR"
    given = os.environ.get(variable)
    if not given:
        return None
    if not Path(given).is_dir():
        raise InputError(variable, f"{given!r} is no folder", "name a folder with one file a secret")
    return Path(given)


def secret_fix(field: str) -> str:
    """Return the places for a secret, as the fix of an error."""
    # Not keyword, option or run-config: those are written to ledgers, shell histories and logs.
    variable = ENVIRONMENT_PREFIX + field.upper()
    return (
        f"set {variable} in the environment or .env, or put it in a file of that name in LOWCARB_SECRETS_DIR"
    )


def _unknown(label: str, key: str, settings: type[Settings]) -> InputError:
    """Return the error for an unknown setting, with the nearest name in the same spelling."""
    names = [name.replace("_", "-") for name in settings.model_fields]
    near = near_miss(key.replace("_", "-"), names)
    if near is None:
        return InputError(label, "is no setting", f"there are {', '.join(sorted(names))}")
    spelt = near if "-" in label else near.replace("-", "_")
    return InputError(label, "is no setting", f"did you mean {label.removesuffix(key)}{spelt}?")


def _meaning(field: str) -> str:
    description = Settings.model_fields[field].description or ""
    return f"it is {' '.join(description.split())}"
