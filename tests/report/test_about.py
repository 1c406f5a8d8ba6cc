from __future__ import annotations

import json

import pytest

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.report.about import FILE_NAME, About, read_about, write_about


def test_what_was_written_is_read(tmp_path):
    about = About("Spring", "me", None, 12.5, "plain FedAvg", {"accuracy": 0.9})
    write_about(about, tmp_path)
    assert read_about(tmp_path) == about
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_run_without_the_file_is_about_nothing(tmp_path):
    assert read_about(tmp_path) == About()


def test_what_is_given_replaces_and_an_empty_text_removes(tmp_path):
    kept = About("Spring", "me").amended(title="", purpose="to try", owner=None, embodied_g=None)
    assert kept == About(None, "me", "to try")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "about.json: is not JSON"),
        ("[]", "about.json: is not a JSON object"),
        ('{"title": 7}', "about.json: title: 7 is no text"),
        ('{"embodied_g": -1}', "about.json: embodied_g: -1 is no mass"),
        ('{"embodied_g": "much"}', "about.json: embodied_g: 'much' is no mass"),
        ('{"compared_metrics": {"accuracy": "good"}}', "compared_metrics: is not a number for each name"),
        (json.dumps({"title": "x" * 100_000}), "is larger than"),
    ],
)
def test_a_wrong_file_is_bad_input_that_names_the_field(tmp_path, content, problem):
    (tmp_path / FILE_NAME).write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_about(tmp_path)
    assert problem in str(caught.value)
