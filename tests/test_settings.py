"""Settings: one list, one meaning, one order of precedence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.settings import FORMER_NAMES, Settings


def test_keyword_over_option_over_run_config_over_environment_over_file(monkeypatch):
    Path(".env").write_text("LOWCARB_PATIENCE=0.1\n", encoding="utf-8")
    assert Settings.load().patience == 0.1
    monkeypatch.setenv("LOWCARB_PATIENCE", "0.2")
    assert Settings.load().patience == 0.2
    places = {"run_config": {"lowcarb-patience": 0.3}}
    assert Settings.load(**places).patience == 0.3
    places["options"] = {"patience": 0.4}
    assert Settings.load(**places).patience == 0.4
    places["keywords"] = {"patience": 0.5}
    assert Settings.load(**places).patience == 0.5
    places["keywords"] = {"patience": None}
    assert Settings.load(**places).patience == 0.4


def test_defaults_wait_for_nothing():
    settings = Settings.load()
    assert settings.source is None
    assert settings.enabled


def test_reads_flower_run_config_and_leaves_the_rest():
    run_config = {
        "lowcarb-source": "synthetic",
        "lowcarb-finish-by": "48h",
        "lowcarb-round-duration": "30m",
        "lowcarb-participation": "2,5",
        "lowcarb-traces": "",
        "learning-rate": 0.1,
    }
    settings = Settings.load(run_config=run_config)
    assert settings.finish_by == timedelta(hours=48)
    assert settings.round_duration == timedelta(minutes=30)
    assert settings.participation == (2, 5)
    assert settings.traces is None


def test_a_deadline_may_be_a_time():
    settings = Settings.load(keywords={"finish_by": "2026-01-31T18:00+02:00"})
    assert settings.finish_by == datetime(2026, 1, 31, 16, tzinfo=UTC)


def test_a_virtual_clock_may_have_a_start():
    assert Settings.load(keywords={"clock": "virtual:2026-01-31T18:00Z"}).clock == (
        "virtual:2026-01-31T18:00:00Z"
    )


@pytest.mark.parametrize(
    ("places", "written"),
    [
        ({"run_config": {"lowcarb-patience": 1.5}}, "lowcarb-patience"),
        ({"run_config": {"lowcarb-patience": float("nan")}}, "lowcarb-patience"),
        ({"options": {"finish_by": "tomorrow"}}, "--finish-by"),
        ({"options": {"finish_by": "2026-01-31T18:00"}}, "--finish-by"),
        ({"keywords": {"clients_per_round": 0}}, "clients_per_round"),
        ({"keywords": {"round_duration": "-30m"}}, "round_duration"),
        ({"keywords": {"participation": "2,x"}}, "participation"),
        ({"keywords": {"clock": "sundial"}}, "clock"),
        ({"keywords": {"default_power_watts": -1}}, "default_power_watts"),
        ({"keywords": {"evaluate_on": "mars"}}, "evaluate_on"),
    ],
)
def test_an_impossible_value_names_the_place_it_was_written_at(places, written):
    with pytest.raises(InputError) as caught:
        Settings.load(**places)
    assert caught.value.field == written


def test_an_impossible_value_in_the_environment_is_named_as_there(monkeypatch):
    monkeypatch.setenv("LOWCARB_PATIENCE", "7")
    with pytest.raises(InputError) as caught:
        Settings.load()
    assert caught.value.field == "LOWCARB_PATIENCE"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean lowcarb-patience"):
        Settings.load(run_config={"lowcarb-patiense": 1})
    with pytest.raises(InputError, match="did you mean finish_by"):
        Settings.load(keywords={"finish_bye": "48h"})


def test_underscores_in_the_prefix_are_not_ignored():
    with pytest.raises(InputError, match="write lowcarb-finish-by"):
        Settings.load(run_config={"lowcarb_finish_by": "48h"})


def test_secrets_come_from_environment_dotenv_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWCARB_WATTTIME_USER", "me-env")
    Path(".env").write_text("LOWCARB_WATTTIME_PASSWORD=me-dotenv\n", encoding="utf-8")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "LOWCARB_SDK_AUTH").write_text("me-file\n", encoding="utf-8")
    monkeypatch.setenv("LOWCARB_SECRETS_DIR", str(tmp_path / "secrets"))
    settings = Settings.load()
    given = settings.watttime_user, settings.watttime_password, settings.sdk_auth
    assert [secret.get_secret_value() for secret in given] == ["me-env", "me-dotenv", "me-file"]
    assert "me-" not in repr(settings) + str(settings.model_dump())


@pytest.mark.parametrize(
    ("place", "key", "label"),
    [
        ("run_config", "lowcarb-sdk-auth", "lowcarb-sdk-auth"),
        ("options", "sdk_auth", "--sdk-auth"),
        ("keywords", "sdk_auth", "sdk_auth"),
    ],
)
def test_secrets_are_refused_elsewhere_and_not_repeated(place, key, label):
    with pytest.raises(InputError, match=rf"{label}: is a secret.*LOWCARB_SDK_AUTH") as error:
        Settings.load(**{place: {key: "hush"}})
    assert "hush" not in str(error.value)


def test_the_folder_of_secrets_has_to_be_there(monkeypatch):
    monkeypatch.setenv("LOWCARB_SECRETS_DIR", "/nowhere")
    with pytest.raises(InputError, match="LOWCARB_SECRETS_DIR: '/nowhere' is no folder"):
        Settings.load()


def test_each_setting_that_is_given_says_where(monkeypatch, tmp_path):
    assert Settings.origins() == {}
    (tmp_path / "secrets").mkdir()
    for name in ("SDK_AUTH", "WATTTIME_USER"):
        (tmp_path / "secrets" / f"LOWCARB_{name}").write_text("x", encoding="utf-8")
    monkeypatch.setenv("LOWCARB_SECRETS_DIR", str(tmp_path / "secrets"))
    Path(".env").write_text("LOWCARB_WATTTIME_USER=x\nLOWCARB_PATIENCE=0.1\nOTHER=1\n", encoding="utf-8")
    monkeypatch.setenv("LOWCARB_PATIENCE", "0.2")
    monkeypatch.setenv("LOWCARB_TRACES", "")
    origins = Settings.origins(options={"source": "synthetic", "sdk_url": None})
    assert origins == {
        "sdk_auth": "secrets file",
        "watttime_user": ".env",
        "patience": "environment",
        "source": "--source",
    }
    assert Settings.origins(run_config={"lowcarb-patience": 0.3})["patience"] == "lowcarb-patience"


def test_a_field_that_is_left_unset_has_its_default(monkeypatch):
    monkeypatch.setenv("LOWCARB_PATIENCE", "7")
    monkeypatch.setenv("LOWCARB_FINISH_BY", "tomorrow")
    settings = Settings.load(unset=["patience", "finish_by"])
    assert (settings.patience, settings.finish_by) == (1.0, None)


@pytest.mark.parametrize(("former", "current"), FORMER_NAMES.items())
@pytest.mark.parametrize("place", ["keywords", "options", "run_config", "environment", ".env"])
def test_a_former_name_sets_the_renamed_setting_wherever_it_is_written(monkeypatch, former, current, place):
    url = "http://former:8080"
    places = {}
    if place == "environment":
        monkeypatch.setenv(f"LOWCARB_{former.upper()}", url)
    elif place == ".env":
        Path(".env").write_text(f"LOWCARB_{former.upper()}={url}\n", encoding="utf-8")
    else:
        key = f"lowcarb-{former.replace('_', '-')}" if place == "run_config" else former
        places = {place: {key: url}}
    assert getattr(Settings.load(**places), current) == url
    assert set(Settings.origins(**places)) == {current}


def test_the_current_name_of_a_setting_wins_over_its_former_name(monkeypatch):
    monkeypatch.setenv("LOWCARB_SDK_URL", "http://former")
    monkeypatch.setenv("LOWCARB_CARBON_AWARE_SDK_URL", "http://current")
    assert Settings.load().carbon_aware_sdk_url == "http://current"


def test_what_is_shown_holds_no_secret(monkeypatch):
    monkeypatch.setenv("LOWCARB_SDK_AUTH", "me:hush")
    for name in ("SDK", "UK", "ELECTRICITY_MAPS", "WATTTIME"):
        monkeypatch.setenv(f"LOWCARB_{name}_URL", "https://me:hush@host/prefix@home")
    shown = Settings.load().shown()
    assert "hush" not in str(shown)
    # Whether the password ends at the first @ or at the last one, nobody can tell.
    assert shown["carbon_aware_sdk_url"] == shown["watttime_url"] == "https://***@home"
    assert shown["patience"] == 1.0


def test_a_token_in_the_query_of_a_url_is_not_shown():
    shown = Settings.load({"sdk_url": "http://me:hush@sdk/x?token=hush#hush"}).shown()
    assert shown["carbon_aware_sdk_url"] == "http://***@sdk/x?***"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:s3cr/etpw@sdk:80/x", "http://***@sdk:80/x"),
        ("http://user:s3cr?etpw@sdk:80/x", "http://***"),
        ("http://sdk/x?token=s3cr@etpw", "http://***"),
        ("http://sdk/x?token=s3cret", "http://sdk/x?***"),
        ("user:s3cretpw@sdk", "***@sdk"),
        ("http://sdk:8080/x", "http://sdk:8080/x"),
    ],
)
def test_no_part_of_a_password_in_a_url_is_shown(url, shown):
    assert Settings.load({"carbon_aware_sdk_url": url}).shown()["carbon_aware_sdk_url"] == shown


@pytest.mark.parametrize(
    "field",
    [
        "patience",
        "clients_per_round",
        "max_location_share",
        "mix_rounds",
        "deadline_confidence",
        "archive_days",
    ],
)
def test_a_switch_is_no_number(field):
    key = f"lowcarb-{field.replace('_', '-')}"
    with pytest.raises(InputError, match=f"{key}: True: give a number, not a switch"):
        Settings.load(run_config={key: True})


@pytest.mark.parametrize("value", ["maybe", 2, 0.5, [True]])
def test_what_is_no_switch_is_one_line_with_the_fix(monkeypatch, value):
    problem = "give true or false; it is permission to learn the durations of rounds"
    for place, key in {"run_config": "lowcarb-learn-durations", "keywords": "learn_durations"}.items():
        with pytest.raises(InputError) as error:
            Settings.load(**{place: {key: value}})
        assert str(error.value).startswith(f"{key}: {value!r}: {problem}")
    monkeypatch.setenv("LOWCARB_LEARN_DURATIONS", str(value))
    with pytest.raises(InputError) as error:
        Settings.load()
    assert str(error.value).startswith(f"LOWCARB_LEARN_DURATIONS: {str(value)!r}: {problem}")


@pytest.mark.parametrize("key", ["LOWCARB-PATIENCE", "Lowcarb-patience", "LOWCARB_PATIENCE"])
def test_a_setting_in_another_case_is_not_ignored(key):
    with pytest.raises(InputError, match=f"{key}: is no setting; write lowcarb-patience"):
        Settings.load(run_config={key: 0.5})


@pytest.mark.parametrize(("path", "problem"), [("a\0b", "has no NUL"), ("a" * 5000, "has 5,000 characters")])
@pytest.mark.parametrize("field", ["run-dir", "locations", "traces", "archive-dir"])
def test_a_folder_that_no_file_system_has_is_refused_in_a_line(field, path, problem):
    with pytest.raises(InputError, match=f"lowcarb-{field}: ") as error:
        Settings.load(run_config={f"lowcarb-{field}": path})
    assert problem in str(error.value)
    assert len(str(error.value)) < 400
