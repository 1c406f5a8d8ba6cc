from __future__ import annotations

from pathlib import Path

import pytest

from lowcarb_scheduler.doctor.checks import Check, check_settings
from lowcarb_scheduler.errors import InputError


def test_given_settings_are_shown_with_their_origin(monkeypatch):
    monkeypatch.setenv("LOWCARB_TIMEOUT", "90s")
    monkeypatch.setenv("LOWCARB_FINISH_BY", "2026-03-02T18:00+02:00")
    Path(".env").write_text("LOWCARB_PATIENCE=0.5\n", encoding="utf-8")
    settings, checks = check_settings({"source": "synthetic", "sdk_url": None})
    assert settings.source == "synthetic"
    assert checks == [
        Check("setting finish-by", "ok", "2026-03-02T16:00:00Z (environment)"),
        Check("setting patience", "ok", "0.5 (.env)"),
        Check("setting source", "ok", "synthetic (--source)"),
        Check("setting timeout", "ok", "1 min 30 s (environment)"),
    ]


def test_without_settings_there_is_one_ok_check():
    assert [check.detail for check in check_settings({})[1]] == ["none set: all have their defaults"]


def test_values_of_secrets_are_not_shown(monkeypatch):
    monkeypatch.setenv("LOWCARB_ELECTRICITY_MAPS_TOKEN", "hush")
    monkeypatch.setenv("LOWCARB_SDK_URL", "http://me:hush@sdk:8080")
    settings, checks = check_settings({})
    assert settings.electricity_maps_token.get_secret_value() == "hush"
    shown = {check.check: check.detail for check in checks}
    assert shown["setting electricity-maps-token"] == "set (environment)"
    assert "hush" not in str(checks)


def test_an_invalid_setting_is_a_fault_and_does_not_hide_the_others(monkeypatch):
    monkeypatch.setenv("LOWCARB_PATIENCE", "7")
    monkeypatch.setenv("LOWCARB_FINISH_BY", "tomorrow")
    monkeypatch.setenv("LOWCARB_SOURCE", "synthetic")
    settings, checks = check_settings({})
    assert (settings.source, settings.patience, settings.finish_by) == ("synthetic", 1.0, None)
    states = {check.check: check.state for check in checks}
    assert states == {"setting patience": "fault", "setting finish-by": "fault", "setting source": "ok"}
    assert all(check.fix for check in checks if check.state == "fault")


def test_a_folder_of_secrets_that_is_not_there_is_a_fault(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWCARB_SECRETS_DIR", str(tmp_path / "nowhere"))
    settings, (check,) = check_settings({})
    assert settings is None
    assert check.state == "fault"
    assert "is no folder" in check.detail


def test_settings_that_cannot_be_read_are_one_fault():
    Path(".env").write_bytes(b"LOWCARB_SOURCE=\xff\n")
    settings, (check,) = check_settings({})
    assert settings is None
    assert (check.check, check.state, check.fix) == ("settings", "fault", "save it as UTF-8")


def test_a_misspelt_variable_is_a_warning_with_the_nearest_name(monkeypatch):
    monkeypatch.setenv("LOWCARB_SORUCE", "synthetic")
    monkeypatch.setenv("LOWCARB_TRACEBACK", "1")
    warned = [check for check in check_settings({})[1] if check.state == "warning"]
    assert warned == [
        Check("settings", "warning", "LOWCARB_SORUCE is not a setting", "did you mean LOWCARB_SOURCE?")
    ]


def test_an_invalid_option_is_bad_input():
    with pytest.raises(InputError, match="--sdk-signal"):
        check_settings({"sdk_signal": "loud"})
