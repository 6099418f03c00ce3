"""make demo: a busy day, played against a running hub and checked against what was sent."""

import subprocess
from pathlib import Path

import pytest
from support.hubs import ROOT, Hub


@pytest.mark.timeout(300)
def test_a_busy_day_loses_nothing_and_doubles_nothing(own_hub: Hub) -> None:
    played = subprocess.run(
        ["make", "--silent", "demo", f"STATE={own_hub.state}"], cwd=ROOT, capture_output=True, text=True
    )

    assert played.returncode == 0, played.stdout + played.stderr
    assert "nothing lost, nothing doubled" in played.stdout
    assert own_hub.rows("select count(*) > 250 from public.agent_actions where agent = 'lead-qualifier'") == [
        (True,)
    ]


def test_without_a_hub_it_says_how_to_start_one(tmp_path: Path) -> None:
    played = subprocess.run(
        ["make", "--silent", "demo", f"STATE={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )

    assert played.returncode != 0
    assert "start one with `make run`" in played.stderr
