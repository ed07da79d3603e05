"""Any tree of folders and files: a layout with the right counts, or one sentence; nothing else."""

import shutil
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from ecar_lab.data.opening import load_table
from ecar_lab.data.places import METADATA, TABLES, recognise
from ecar_lab.errors import EcarError
from tests.data.pictures import encoded, write_parquet

FOLDERS = (
    "train",
    "training",
    "test",
    "val",
    "unlabeled",
    "cat",
    "dog",
    "images",
    "test tube",
    "7",
)
FILES = ("1.png", "2.JPG", "3.jfif", "notes.txt", "4.heif2", "train_1.png", "a", ".hidden.png")
TABLE_FILES = ("train.parquet", "my_test.parquet", "x.PARQUET", "train-00000-of-00001.parquet")
METADATA_LINES = (
    "file_name,label\n1.png,cat\n2.JPG,dog\n",
    "file_name,text\n1.png,x\n",
    "\x00",
    "",
)

paths = st.lists(st.sampled_from(FOLDERS), max_size=3)
pictures = st.tuples(paths, st.sampled_from(FILES))
tables = st.tuples(paths, st.sampled_from(TABLE_FILES))
trees = st.tuples(
    st.lists(pictures, max_size=12),
    st.lists(tables, max_size=2),
    st.lists(paths, max_size=3),
    st.one_of(st.none(), st.tuples(paths, st.sampled_from(METADATA_LINES))),
)
limits = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def build(root: Path, tree) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    files, parquet, folders, metadata = tree
    for parts, name in files:
        place = root.joinpath(*parts)
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(PNG)
    for parts, name in parquet:
        write_table(root.joinpath(*parts, name))
    for parts in folders:
        root.joinpath(*parts).mkdir(parents=True, exist_ok=True)
    if metadata is not None:
        place = root.joinpath(*metadata[0])
        place.mkdir(parents=True, exist_ok=True)
        (place / "metadata.csv").write_text(metadata[1])


PNG = encoded(1)["bytes"]
ROWS: list[bytes] = []


def write_table(path: Path) -> None:
    """Two rows; written once, copied later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not ROWS:
        ROWS.append(write_parquet(path, [encoded(n) for n in range(2)]).read_bytes())
    path.write_bytes(ROWS[0])


def visible(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]


@limits
@given(tree=trees)
def test_every_file_of_any_tree_is_used_or_skipped_or_the_tree_is_refused(tmp_path, tree):
    build(tmp_path / "set", tree)
    try:
        found = recognise(tmp_path / "set")
    except EcarError as error:
        refused = str(error)
    else:
        refused = ""
    assert "\n" not in refused
    if refused:
        return
    used = [file for files in found.files.values() for file in files]
    used += [file for files in found.pictures.values() for file in files]
    skipped = sum(count for count, _ in found.skipped.reasons.values())
    assert len(used) == len(set(used))
    assert len(used) + skipped == len(visible(tmp_path / "set"))
    assert set(found.classes) >= {label for part in found.labels.values() for label in part}


@limits
@given(tree=trees)
def test_any_tree_opens_with_the_counts_it_says_or_is_refused(tmp_path, tree):
    build(tmp_path / "set", tree)
    try:
        found = recognise(tmp_path / "set")
        split = next(iter(found.files))
        table = load_table(str(tmp_path / "set"), split, None, False)
    except EcarError as error:
        refused = str(error)
    else:
        refused = ""
    assert "\n" not in refused
    if refused:
        return
    layout = table.layout
    assert layout.splits[split] == len(table.rows) == len(table.take(list(range(len(table.rows)))))
    files = [file for part in found.files.values() for file in part]
    if found.kind == TABLES:
        assert layout.num_images == 2 * len(files)
    elif found.kind != METADATA:
        endings = (".png", ".jpg", ".jfif")
        there = [p for p in visible(tmp_path / "set") if p.suffix.lower() in endings]
        stray = ("beside the splits", "in no class folder")
        left = sum(layout.skipped.get(reason, (0, ()))[0] for reason in stray)
        assert layout.num_images == len(there) - left
        for image, label in table.take(list(range(len(table.rows)))):
            parts = Path(image["path"]).relative_to(tmp_path).parts[:-1]
            assert layout.class_names[label] in parts
    assert layout.line().startswith(f"{tmp_path / 'set'}: ")
