"""Secrets are masked however a server writes them, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.forecasts.http.responses import Redaction

SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="*…"), min_size=4, max_size=12).filter(
    lambda text: text == text.strip() and text.isprintable()
)
WRITTEN = {
    "plain": str,
    "JSON": json.dumps,
    "JSON as it is": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON of .NET": lambda text: json.dumps(text).replace("+", "\\u002B").replace("/", "\\/"),
    "Python": repr,
    "ASCII": ascii,
    "bytes": lambda text: repr(text.encode()) if text.isascii() else text,
    "URL": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "HTML": html.escape,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "one line": one_line,
}


@pytest.mark.parametrize("form", WRITTEN)
@given(SECRETS, st.text(max_size=8), st.text(max_size=8))
def test_nothing_is_left_of_a_secret(form, secret, before, after):
    written = WRITTEN[form](secret)
    masked = Redaction([secret]).mask(f"{before}{written}{after}")
    assert secret not in masked
    core = written.strip("\"'")
    assert core.removeprefix("b'") not in masked or len(core) < 4 or core in before + after


@given(SECRETS, st.integers(4, 20), st.text(st.characters(codec="ascii"), max_size=5))
def test_a_text_that_was_cut_shows_no_beginning_of_it(secret, kept, before):
    text = f"{before}{secret[:kept]}…"
    if len(secret) > kept:
        assert not Redaction([secret]).mask(text).endswith(f"{secret[:kept]}…")


@given(st.text(st.characters(max_codepoint=127)), st.from_regex(r"[A-Z]{4}[0-9]{8}", fullmatch=True))
def test_nothing_else_is_masked(text, secret):
    text = text.lower()
    if secret.lower() not in text and "…" not in text:
        assert Redaction([secret]).mask(text) == text


def test_without_secrets_a_text_stays_as_it_is():
    assert Redaction([]).mask("a…b") == "a…b"
    assert Redaction([""]).mask("a…b") == "a…b"


def test_basic_credentials_are_known_by_their_parts():
    header = "Basic " + base64.b64encode(b"somebody:pass:word").decode()
    masked = Redaction([header]).mask(f"{header} | somebody | pass:word | somebody:pass:word | body")
    assert masked == "*** | *** | *** | *** | body"
    assert Redaction(["Basic /no base64/"]).mask("x /no base64/ y") == "x *** y"


def test_what_follows_a_scheme_is_the_secret():
    assert (
        Redaction(["Bearer abcdef"]).mask("token abcdef; Bearer is missing") == "token ***; Bearer is missing"
    )


def test_a_secret_of_few_letters_is_masked_as_a_word():
    redaction = Redaction(["Basic " + base64.b64encode(b"me:word").decode()])
    assert redaction.mask("me: some time, he said 'me'") == "***: some time, he said '***'"
