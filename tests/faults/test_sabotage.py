"""The sabotages: each still applies to the service as it is, and some are played.

That the checker turns red on each takes ten minutes: `make sabotage` plays them all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.sabotage.__main__ import table
from tests.faults.sabotage.catalogue import SABOTAGES, Sabotage
from tests.faults.sabotage.patch import Edit, NotApplicableError, copy_of_the_code, patched
from tests.faults.sabotage.scenes import BESIDE_A_STALLED_CLAIM, SCENES, UNDER_LOAD
from tests.faults.sabotage.trial import UNSABOTAGED, Trial
from tests.faults.setting import Servers
from tests.faults.verdict import Invariant
from tests.processes import ROOT

FEWEST = 12
# Of those that need nothing but load: seconds each.
PLAYED = ("no-fingerprint", "transient-events", "poison-dropped")


def test_there_are_enough_sabotages_each_with_a_name_a_scene_and_what_must_see_it() -> None:
    names = {each.name for each in SABOTAGES}
    assert len(names) == len(SABOTAGES) >= FEWEST
    assert {each.scene.name for each in SABOTAGES} == {scene.name for scene in SCENES}
    assert {each.seen_by for each in SABOTAGES} <= {*Invariant, BESIDE_A_STALLED_CLAIM}
    for each in SABOTAGES:
        assert f"| `{each.name}` | {each.breaks} | `{each.seen_by}` |" in table()


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda each: each.name)
def test_a_sabotage_applies_to_the_service_as_it_is(sabotage: Sabotage, tmp_path: Path) -> None:
    broken = copy_of_the_code(tmp_path / "broken", sabotage.edits)
    for file in {edit.file for edit in sabotage.edits}:
        text = (broken / file).read_text()
        assert text != (ROOT / file).read_text()
        compile(text, file, "exec")


@pytest.mark.servers
async def test_the_checker_sees_each_sabotage_and_nothing_where_nothing_is_broken(
    servers_to_break: Servers, tmp_path: Path
) -> None:
    sabotages = [each for each in SABOTAGES if each.name in PLAYED]
    assert all(each.scene is UNDER_LOAD for each in sabotages)

    outcomes = await Trial(UNDER_LOAD, sabotages, tmp_path).run(servers_to_break)

    assert outcomes[UNSABOTAGED].holds, str(outcomes[UNSABOTAGED])
    for each in sabotages:
        assert outcomes[each.name].shows(each), f"{each.name}: {outcomes[each.name]}"


@pytest.mark.parametrize(
    ("old", "times"), [("what is not there", 0), ("import", 2)], ids=["gone", "ambiguous"]
)
def test_an_edit_that_does_not_apply_says_so(tmp_path: Path, old: str, times: int) -> None:
    (tmp_path / "some.py").write_text("import os\nimport sys\n")
    with pytest.raises(NotApplicableError) as told:
        patched([Edit("some.py", old, "something else")], tmp_path)
    assert "the sabotage no longer applies: some.py: " in str(told.value)
    assert f"{old!r} is there {times} times" in str(told.value)


def test_an_edit_that_changes_nothing_does_not_apply(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text("import os\n")
    with pytest.raises(NotApplicableError, match=r"some\.py"):
        patched([Edit("some.py", "import", "import")], tmp_path)


def test_an_edit_of_a_file_that_is_gone_does_not_apply(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match=r"gone\.py"):
        patched([Edit("gone.py", "import", "export")], tmp_path)


def test_edits_of_one_file_are_made_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text("a = 1\n")
    edits = [Edit("some.py", "a = 1", "b = 1"), Edit("some.py", "b = 1", "b = 2")]
    assert patched(edits, tmp_path) == {"some.py": "b = 2\n"}
