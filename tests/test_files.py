"""What lies on the disk is what was written there, or a sentence names the file."""

import shutil
import subprocess

import pytest

from ecar_lab.errors import EcarError
from ecar_lab.files import resolve_checkpoint, verify_checksums, write_checksums


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "checkpoint"
    (home / "model").mkdir(parents=True)
    (home / "model" / "weights.safetensors").write_bytes(bytes(range(256)))
    (home / "notes.txt").write_text("notes", "utf-8")
    write_checksums(home)
    return home


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_every_file_is_listed_once_and_the_list_can_be_written_again(folder):
    lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    assert [line[66:] for line in lines] == ["model/weights.safetensors", "notes.txt"]
    write_checksums(folder)
    assert (folder / "SHA256SUMS").read_text("utf-8").splitlines() == lines
    verify_checksums(folder)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_sha256sum_reads_the_list(folder):
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=folder, capture_output=True).returncode == 0


def test_a_flipped_bit_is_noticed_from_the_folder_and_from_the_one_below(folder):
    flip_a_bit(folder / "model" / "weights.safetensors")
    for place in (folder, folder / "model"):
        with pytest.raises(
            EcarError, match=r"weights.safetensors' cannot be loaded, it is not the file that"
        ):
            verify_checksums(place)


def test_a_missing_file_is_noticed_and_a_new_one_is_not(folder):
    (folder / "new.txt").write_text("new", "utf-8")
    verify_checksums(folder)
    (folder / "notes.txt").unlink()
    with pytest.raises(EcarError, match=r"notes.txt' is missing, SHA256SUMS lists it: copy"):
        verify_checksums(folder)


def test_only_the_files_asked_for_are_looked_at(folder):
    flip_a_bit(folder / "notes.txt")
    verify_checksums(folder, ".safetensors")
    verify_checksums(folder / "model")


def test_without_a_list_nothing_is_checked_and_a_damaged_one_is_named(folder):
    (folder / "SHA256SUMS").write_text("no sums\n", "utf-8")
    with pytest.raises(EcarError, match=r"SHA256SUMS in .* is damaged at 'no sums'"):
        verify_checksums(folder)
    (folder / "SHA256SUMS").unlink()
    verify_checksums(folder)


def test_a_variable_that_names_no_folder_of_checkpoints_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ECAR_CHECKPOINTS", str(tmp_path / "nowhere"))
    with pytest.raises(EcarError, match=r"nowhere' \(from ECAR_CHECKPOINTS\) is no folder"):
        resolve_checkpoint("digits")
