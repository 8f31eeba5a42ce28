"""Pairings: the same files give the same pairs whatever they are called, and a manifest is checked."""

import json

import pytest

from pipelines.evaluation import pairs
from xnemo_platform.errors import PlatformError


@pytest.fixture
def media(tmp_path):
    for folder, ending, count in (("portraits", "png", 6), ("driving", "mp4", 5)):
        (tmp_path / folder).mkdir()
        for k in range(count):
            (tmp_path / folder / f"{k}.{ending}").write_bytes(f"{folder} {k}".encode())
    return tmp_path


def _built(media, **options):
    return pairs.build(
        pairs.files(media / "portraits", pairs.PICTURES), pairs.files(media / "driving", pairs.VIDEOS), 0, **options
    )


def test_the_same_files_under_other_names_give_the_same_pairs(media):
    before = [(p.portrait_sha256, p.driving_sha256, p.id, p.group) for p in _built(media, count=9, matrix=2)]
    for k, path in enumerate(sorted((media / "portraits").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed-{k}.jpg"))
    assert [(p.portrait_sha256, p.driving_sha256, p.id, p.group) for p in _built(media, count=9, matrix=2)] == before


def test_no_pair_comes_twice_every_driver_comes_early_and_the_matrix_is_whole(media):
    found = _built(media, count=9, matrix=2)
    assert len({p.id for p in found}) == len(found)
    drawn = [p for p in found if p.group == "random"]
    assert len(drawn) == 9
    assert len({p.driving for p in drawn[:5]}) == 5
    whole = {(p.portrait, p.driving) for p in found}
    full = [p for p in {p.portrait for p in found} if sum(a == p for a, _ in whole) == 5]
    assert len(full) >= 2
    assert len(_built(media, count=300)) == 30, "no more than there are"


def test_a_manifest_travels_with_its_folder(media):
    made = _built(media, count=4, matrix=0)
    pairs.write(media / "pairs.json", made, {"protocol": "cross", "seed": 0})
    elsewhere = media.rename(media.with_name("elsewhere"))
    found = pairs.load(str(elsewhere / "pairs.json"), "cross", 0)
    assert [p.id for p in found] == [p.id for p in made]
    for pair in found:
        pair.check()


def test_a_file_that_changed_or_went_is_told(media):
    pair = _built(media, count=1, matrix=0)[0]
    with open(pair.driving, "ab") as file:
        file.write(b"x")
    with pytest.raises(PlatformError, match=r"is not the file of the manifest"):
        pair.check()
    (media / "portraits").rename(media / "gone")
    with pytest.raises(PlatformError, match="is missing"):
        pair.check()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pairs": []}', '{"pairs": [{"id": "a"}]}',
                                  '{"pairs": [{"id": "../a", "portrait": "", "driving": "x"}]}',
                                  '{"pairs": [{"id": 5, "portrait": "", "driving": "x"}]}',
                                  '{"pairs": [{"id": "a", "portrait": null, "driving": ["x"]}]}',
                                  '{"pairs": [{"id": "a", "portrait": "", "driving": ""}]}',
                                  '{"pairs": {"id": "a"}}', '{"pairs": 7}', '{"pairs": ["a"]}'])  # fmt: skip
def test_what_is_no_manifest_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(PlatformError, match=r"pairs\.json"):
        pairs.load(str(tmp_path / "pairs.json"), "self", 0)


def test_data_that_does_not_suit_the_protocol_is_refused(media):
    with pytest.raises(PlatformError, match="neither a folder nor a manifest"):
        pairs.load(str(media / "nothing"), "self", 0)
    with pytest.raises(PlatformError, match="no files of kind"):
        pairs.load(str(media / "portraits"), "self", 0)
    rows = {"pairs": [{"id": "a", "portrait": "", "driving": "driving/0.mp4"}]}
    (media / "self.json").write_text(json.dumps(rows))
    with pytest.raises(PlatformError, match="names no portrait"):
        pairs.load(str(media / "self.json"), "cross", 0)
    assert [p.id for p in pairs.load(str(media / "driving"), "self", 0, limit=3)] == ["0", "1", "2"]
