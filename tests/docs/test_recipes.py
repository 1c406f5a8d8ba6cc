"""Recipes for batch systems: the scripts on their page, run on a plan with an sbatch that notes its calls."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from support.cli_files import NOW, run, write_forecast, write_job
from support.page_blocks import blocks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "slurm-kubernetes.md").read_text(encoding="utf-8")
SBATCH = """#!/bin/sh
printf '%s|%s|%s\\n' "$ROUND" "$CLIENTS" "$*" >> calls
echo "4$(wc -l < calls | tr -d ' ');cluster"
"""
DATE = f"#!/bin/sh\necho {int(NOW.timestamp()) + 9 * 3600}\n"  # an hour after the first round was to open


def script(name):
    """Return the functions of a script on the page."""
    (block,) = (block for block in blocks(PAGE, "python") if block.title == name)
    found = {}
    exec(compile(block.text, name, "exec"), found)
    return found


@pytest.fixture
def plan(tmp_path, capsys):
    clients = [
        {"id": name, "location": place}
        for name, place in zip(["a", "b", "it's c", "d"], ["DE", "FR"] * 2, strict=True)
    ]
    files = ["--job", write_job(tmp_path, clients=clients), "--forecast", write_forecast(tmp_path)]
    return run(capsys, "plan", *files, "--json").document


def test_slurm_gets_a_job_a_round_when_it_opens_and_after_the_one_before(plan, tmp_path):
    programs = {"sbatch": SBATCH, "date": DATE}
    for name, text in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    submit = "\n".join(script("to_sbatch.py")["submissions"](plan))
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["sh"], input=submit, text=True, check=True, cwd=tmp_path, env={**os.environ, "PATH": path}
    )
    calls = [line.split("|") for line in (tmp_path / "calls").read_text(encoding="utf-8").splitlines()]
    assert [(number, clients) for number, clients, _ in calls] == [
        (str(each["round"]), " ".join(client["id"] for client in each["clients"])) for each in plan["rounds"]
    ]
    assert any("it's c" in clients for _, clients, _ in calls)
    waits = [int(options.split("--begin=now+")[1].split()[0]) for *_, options in calls]
    opens = [(datetime.fromisoformat(each["opens_at"]) - NOW).total_seconds() for each in plan["rounds"]]
    assert waits == [max(0, seconds - 9 * 3600) for seconds in opens]
    assert waits[0] == 0 < waits[-1]
    after = [options.partition("--dependency=afterok:")[2].split(" ")[0] for *_, options in calls]
    assert after == ["", "41", "42", "43"]


def test_kubernetes_gets_a_cron_job_a_round_on_its_date(plan):
    document = json.loads(json.dumps(script("to_cronjobs.py")["cronjobs"](plan, "registry/my-app:1")))
    assert [each["spec"]["schedule"] for each in document["items"]] == [
        f"0 {hour} 2 3 *" for hour in (8, 9, 10, 11)
    ]
    for each, planned in zip(document["items"], plan["rounds"], strict=True):
        (container,) = each["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert {one["name"]: one["value"] for one in container["env"]} == {
            "ROUND": str(planned["round"]), "CLIENTS": " ".join(client["id"] for client in planned["clients"])
        }  # fmt: skip
        assert container["image"] == "registry/my-app:1"
        assert each["spec"]["timeZone"] == "Etc/UTC"
