import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fulldeck.errors import BadInput
from fulldeck.workload import encoded
from fulldeck.workloads import make_workload


def images(path, **keys):
    return make_workload({"kind": "images", "path": str(path), **keys})


def picture(level=128, size=(8, 8), mode="RGB", format="PNG"):
    stream = io.BytesIO()
    Image.new(mode, size, level if mode == "L" else (level, 0, 0)).save(stream, format)
    return stream.getvalue()


def fill(folder, classes=("cat", "dog"), count=3, **form):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            (folder / name / f"{place}.png").write_bytes(picture(100 * number + place, **form))
    return folder


# Folders ---------------------------------------------------------------------------------------------


def test_folder_of_classes(tmp_path):
    data = images(fill(tmp_path / "pets")).load()
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.train.inputs.shape == (6, 3, 8, 8)
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.inputs[4, 0, 0, 0] == 101
    assert data.test is None
    assert "images: RGB, 8 x 8 pixels" in data.notes


def test_folder_of_splits(tmp_path):
    for split, count in (("train", 4), ("test", 2), ("val", 1)):
        fill(tmp_path / split, count=count)
    data = images(tmp_path).load()
    assert {name: len(part) for name, part in data.splits().items()} == {
        "train": 8,
        "validation": 2,
        "test": 4,
    }
    assert data.test.targets.tolist() == [0, 0, 1, 1]


def test_grey_images_stay_grey(tmp_path):
    assert images(fill(tmp_path, mode="L")).load().train.inputs.shape == (6, 1, 8, 8)


def test_mixed_sizes_become_squares_and_that_is_said(tmp_path):
    fill(tmp_path)
    (tmp_path / "cat" / "wide.png").write_bytes(picture(size=(40, 20)))
    data = images(tmp_path).load()
    assert data.train.inputs.shape == (7, 3, 64, 64)
    assert any("of several sizes, so resized to 64 x 64" in note for note in data.notes)
    assert images(tmp_path, size=16).load().train.inputs.shape == (7, 3, 16, 16)


def test_a_corrupt_image_is_named_counted_and_left_out(tmp_path):
    fill(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(b"this is no image")
    (tmp_path / "dog" / "2.png").write_bytes(picture()[:40])
    data = images(tmp_path).load()
    assert len(data.train) == 4
    assert data.train.targets.tolist() == [0, 0, 1, 1]
    (note,) = [note for note in data.notes if "corrupt" in note]
    assert note.startswith("2 of 6 images are corrupt: cat/1.png (")
    assert "dog/2.png" in note
    assert note.endswith("; left out")


def test_a_corrupt_image_is_fatal_if_asked(tmp_path):
    fill(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"1 of 6 images is corrupt: cat/1\.png"):
        images(tmp_path, on_corrupt="error").load()


def test_other_files_are_left_out_and_counted(tmp_path):
    fill(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "cat" / ".DS_Store").write_text("x")
    data = images(tmp_path).load()
    assert len(data.train) == 6
    assert any(note.startswith("1 files that are no images") for note in data.notes)


def test_a_huge_image_counts_as_corrupt(tmp_path, monkeypatch):
    monkeypatch.setattr("fulldeck.encoders.image.MAX_PIXELS", 1000)
    fill(tmp_path)
    (tmp_path / "cat" / "bomb.png").write_bytes(picture(size=(100, 100)))
    data = images(tmp_path).load()
    assert len(data.train) == 6
    assert any("cat/bomb.png (image of 100 x 100 pixels is over 1,000 pixels)" in n for n in data.notes)


# Parquet ---------------------------------------------------------------------------------------------


def rows(path, contents=None, **columns):
    contents = contents or [picture(level, format="JPEG") for level in (10, 20, 200, 210)]
    pl.DataFrame({"jpeg": contents, "label": [3, 3, 5, 5], **columns}).write_parquet(path)
    return path


def test_parquet_with_encoded_images(tmp_path):
    path = rows(tmp_path / "small.parquet", split=["train", "test", "train", "test"])
    data = images(path, image="jpeg", label="label", split="split").load()
    assert data.name == "small"
    assert data.classes == ("3", "5")
    assert data.train.inputs.shape == (2, 3, 8, 8)
    assert data.test.targets.tolist() == [0, 1]
    assert images(path).load().classes == ("3", "5")


def test_parquet_as_hugging_face_writes_it(tmp_path):
    contents = [{"bytes": picture(level), "path": "a.png"} for level in (1, 2, 3, 4)]
    pl.DataFrame({"image": contents, "label": [0, 0, 1, 1]}).write_parquet(tmp_path / "hf.parquet")
    assert len(images(tmp_path / "hf.parquet").load().train) == 4


def test_parquet_names_corrupt_rows_and_keeps_the_others_in_place(tmp_path):
    contents = [picture(10), b"broken", picture(200), None]
    path = rows(tmp_path / "x.parquet", contents, who=["a", "b", "c", "d"])
    data = images(path, group="who").load()
    assert data.train.targets.tolist() == [0, 1]
    assert data.train.groups.tolist() == ["a", "c"]
    assert any(
        "2 of 4 images are corrupt: row 2 (" in note and "row 4 (no image)" in note for note in data.notes
    )


# Arrays ----------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(tmp_path):
    def write(**content):
        np.savez_compressed(tmp_path / "fashion.npz", **content)
        return tmp_path / "fashion.npz"

    return write


X = np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5)
Y = np.array([0, 1, 0, 1])


def test_arrays_in_splits(arrays):
    data = images(arrays(x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])).load()
    assert data.name == "fashion"
    assert data.train.inputs.shape == (4, 1, 5, 5)
    assert len(data.test) == 2
    assert data.validation is None


def test_arrays_named_in_the_recipe(arrays):
    path = arrays(pictures=X, kinds=Y.astype(str), part=np.array(["train", "train", "train", "test"]))
    data = images(path, image="pictures", label="kinds", split="part").load()
    assert (len(data.train), len(data.test)) == (3, 1)


def test_an_array_of_splits_is_found_by_its_name_and_that_is_said(arrays):
    data = images(arrays(x=X, y=Y, split=np.array(["train", "train", "train", "test"]))).load()
    assert (len(data.train), len(data.test)) == (3, 1)
    assert {"image: x, by name", "label: y, by name", "split: split, by name"} <= set(data.notes)


def test_colour_shares_and_size(arrays):
    shares = np.random.default_rng(0).random((4, 6, 6, 3))
    data = images(arrays(x=shares, y=Y), size=12).load()
    assert data.train.inputs.shape == (4, 3, 12, 12)
    assert data.train.inputs.max() > 200


def test_pickles_are_not_read(arrays):
    with pytest.raises(BadInput, match=r'array "x" of .* holds pickled objects, which are not read'):
        images(arrays(x=np.array([{}] * 4, dtype=object), y=Y)).load()


def test_unpacking_is_bounded(arrays, monkeypatch):
    monkeypatch.setattr("fulldeck.sources.array_file.MAX_BYTES", 1000)
    with pytest.raises(BadInput, match=r"unpacks to 4,\d\d\d bytes; at most 1,000 are read"):
        images(arrays(x=np.zeros((40, 10, 10), np.uint8), y=np.arange(40))).load()


@pytest.mark.parametrize(
    ("content", "keys", "words"),
    [
        ({"x": X, "y": np.zeros(4)}, {}, 'only the class "0"'),
        ({"x": X[:0], "y": Y[:0]}, {}, "has no images"),
        ({"x": X, "y": Y[:3]}, {}, "one label for each of 4 images"),
        ({"x": np.full((4, 5, 5), np.nan), "y": Y}, {}, "NaN or infinite values, first in image 1"),
        ({"x": X.astype(int) * 10, "y": Y}, {}, "values from 0 to 990; images are 0 to 255"),
        ({"x": np.zeros((4, 25)), "y": Y}, {}, r"has shape \[4, 25\]; images are"),
        ({"x": X, "y": Y}, {"image": "z"}, 'no array "z"; it has x, y'),
        ({"x": X, "lab": Y}, {"label": "lbl"}, r'no array "lbl"; did you mean lab\? it has'),
        ({"a": X, "b": Y}, {}, "name the array with image:; it has a, b"),
        ({"x_train": X, "y_train": Y, "x_test": X}, {}, "not come in the same splits: x_test"),
        ({"x": X, "y": Y, "s": np.array(["train"] * 3 + ["tset"])}, {"split": "s"}, 'holds "tset"'),
    ],
)
def test_refuses_arrays_in_one_line(arrays, content, keys, words):
    with pytest.raises(BadInput, match=words) as caught:
        images(arrays(**content), **keys).load()
    assert "\n" not in str(caught.value)


# Both ------------------------------------------------------------------------------------------------


def test_refuses_folders_in_one_line(tmp_path):
    with pytest.raises(BadInput, match="holds no images in class folders; put them at"):
        images(tmp_path).load()
    fill(tmp_path, classes=("cat",))
    with pytest.raises(BadInput, match='only the class "cat"'):
        images(tmp_path).load()
    with pytest.raises(BadInput, match="is a folder and has no columns, so label: must be left out"):
        images(tmp_path, label="x").load()


def test_refuses_files_in_one_line(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        images(tmp_path / "none.npz").load()
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(BadInput, match=r"is not a readable \.npz file"):
        images(tmp_path / "x.npz").load()
    path = rows(tmp_path / "x.parquet")
    with pytest.raises(BadInput, match='no column "jpg"; did you mean jpeg'):
        images(path, image="jpg").load()
    with pytest.raises(BadInput, match=r'column "label" .* holds no encoded images'):
        images(path, image="label", label="label").load()


def test_all_corrupt_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="4 of 4 images are corrupt"):
        images(rows(tmp_path / "x.parquet", [b"a", b"b", b"c", b"d"])).load()


def test_model_fits_the_images(tmp_path):
    import torch

    workload = images(fill(tmp_path, mode="L"))
    data = encoded(workload, workload.load())
    model = workload.model(data).eval()
    inputs = data.encoder.encode(data.train.inputs)["input"]
    assert model(torch.from_numpy(inputs)).shape == (6, 2)
    assert model.arguments["channels"] == 1
