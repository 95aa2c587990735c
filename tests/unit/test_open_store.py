"""From URLs to stores: what is understood, and one honest sentence for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl_shared.checkpoints.objects import StoreRefused
from runctl_shared.checkpoints.open import open_store, store_folder
from runctl_shared.errors import UsageError


def test_folders_and_file_urls_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = tmp_path / "my ckpts"
    for url in ("my ckpts", "./my ckpts", "~/my ckpts", str(wanted), f"file://{tmp_path}/my%20ckpts"):
        assert store_folder(url) == wanted
    assert store_folder(f"file://localhost{tmp_path}/my ckpts") == wanted
    assert not wanted.exists()


def test_the_stores_own_url_opens_it_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "50% é#?"))
    store.put("k", b"x")
    assert store.url.startswith("file:///")
    assert open_store(store.url).get("k") == b"x"


def test_what_should_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="does not exist"):
        open_store(str(tmp_path / "gone"), create=False)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket", "S3://bucket", "az://c", "r2://b"])
def test_clouds_are_for_later(url: str) -> None:
    with pytest.raises(UsageError, match=r"are not supported yet\.") as refused:
        open_store(url)
    assert refused.value.mend


@pytest.mark.parametrize("url", ["ftp://host/x", "https://host/x", "sqlite:///x"])
def test_an_unknown_scheme_names_the_known_ones(url: str) -> None:
    with pytest.raises(UsageError, match=r"known are file:// and plain paths") as refused:
        open_store(url)
    assert refused.value.mend


@pytest.mark.parametrize(
    "url", ["", "file://", "file://host/x", "file://relative", "a\0b", "file:///a%00b", "~nobody-here/x"]
)
def test_what_names_no_folder(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        store_folder(url)
    assert refused.value.mend
