"""`runctl init`: a file that explains every setting, is right as it stands, and overwrites nothing."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from runctl_controller.cli.init import obvious_script
from runctl_controller.cli.main import main
from runctl_controller.settings.load import explain
from runctl_controller.settings.model import Settings
from runctl_controller.settings.sample import sample, uncommented
from runctl_controller.settings.schema import Said


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and settings of nobody."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in [name for name in os.environ if name.startswith(("RUNCTL_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_every_setting_is_explained() -> None:
    """A setting without a meaning, or one that the file does not have."""
    text = sample("/state", {}, "start")
    for key in Settings.__struct_fields__:
        assert Said.model_fields[key].description, key
        assert f"\n# {key} = " in text
    assert tomllib.loads(text) == {}
    assert set(tomllib.loads(uncommented(text))) == set(Settings.__struct_fields__)
    assert max(map(len, text.splitlines())) <= 110


def test_what_it_writes_is_valid_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Also with every # taken away: a default that the rules refuse, or that means something else."""
    before = explain().settings
    assert main(["init"]) == 0
    assert main(["config", "validate"]) == 0
    assert ".runctl.toml read" in capsys.readouterr().out
    path = Path(".runctl.toml")
    path.write_text(uncommented(path.read_text()))
    found = explain()
    assert found.settings == before
    assert all(source.endswith(".runctl.toml") for source in found.sources.values())


def test_nothing_is_overwritten_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(".runctl.toml")
    path.write_text("project = 'mine'\n")
    assert main(["init"]) == 4
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "project = 'mine'\n"
    assert main(["init", "--force"]) == 0
    assert tomllib.loads(path.read_text()) == {}
    assert os.listdir() == [".runctl.toml"]


def test_a_link_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dangling link would have the file made somewhere else."""
    Path(".runctl.toml").symlink_to(tmp_path / "elsewhere")
    assert main(["init"]) == 4
    assert main(["init", "--force"]) == 0
    assert not (tmp_path / "elsewhere").exists()
    assert not Path(".runctl.toml").is_symlink()


def test_a_folder_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".runctl.toml").mkdir()
    assert main(["init", "--force"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert os.listdir() == [".runctl.toml"]


@pytest.mark.parametrize(
    ("names", "script"),
    [
        ([], None),
        (["train.py", "model.py", "train_utils.py"], "train.py"),
        (["train.py", "train.sh"], None),
        (["train_cats.py", "main.py"], "train_cats.py"),
        (["train_cats.py", "train_dogs.py"], None),
        (["main.py", "data.py"], "main.py"),
        (["my-train.sh"], "my-train.sh"),
        (["train\nrm -rf.py", "$(x)_train.py", "constrained.py"], None),
    ],
)
def test_a_script_is_named_only_when_it_is_obvious(
    names: list[str], script: str | None, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / "work" / name).touch()
    assert obvious_script(tmp_path / "work") == script


def test_what_the_script_gives_away_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.py").write_text('parser.add_argument("--resume-from")')
    assert main(["init", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["script"], document["start"]) == ("train.py", "runctl run -- python train.py")
    text = Path(".runctl.toml").read_text()
    assert '"--resume-from {path}"' in text
    assert "runctl run -- python train.py" in text
