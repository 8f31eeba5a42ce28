"""`xnemo evaluate`: what it would do, and what a user can get wrong, told before anything runs."""

import json

import pytest

from jobs.evaluate import main
from xnemo_platform.errors import PlatformError


def test_a_dry_run_tells_the_work_and_writes_nothing(tmp_path, capsys):
    output = ["--output", str(tmp_path / "out"), "--dry-run"]
    assert main(["--model", "bundled", *output, "clips=3", "pairs=64"]) == 0
    assert "3 clips of 40 frames and 64 pairs, the model's own steps each" in capsys.readouterr().out
    assert main(["--protocol", "ablation", "--model", "full=bundled", "--model", "noRFM=bundled", *output]) == 0
    assert "full (" in capsys.readouterr().out
    rows = [{"id": "a", "portrait": "p.png", "driving": "d.mp4"}]
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": rows}))
    data = ["--data", str(tmp_path / "pairs.json")]
    assert main(["--protocol", "cross", "--model", "bundled", *data, *output]) == 0
    assert "1 pairs of" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "told"), [
    ([], "--model is missing"),
    (["--protocol", "self", "--model", "bundled"], "needs --data"),
    (["--protocol", "cross", "--model", "bundled", "--data", "/nowhere"], "neither a folder nor a manifest"),
    (["--protocol", "cross", "--data", "/nowhere", "results=/nowhere"], "no such folder"),
    (["--protocol", "ablation", "--model", "bundled"], "give --model full=FOLDER"),
    (["--protocol", "ablation", "--model", "a=bundled", "--model", "b=/nowhere"], "no model folder here"),
    (["--model", "/nowhere"], "no model folder here"),
    (["--model", "bundled", "pears=3"], "pears"),
    (["--model", "bundled", "controls=false"], "drawn pairs"),
    (["--protocol", "ablation", "--model", "a=bundled,b=bundled", "--data", "x", "controls=false"], "drawn pairs"),
])  # fmt: skip
def test_what_is_wrong_is_told_in_a_sentence(words, told, tmp_path):
    with pytest.raises(PlatformError, match=told) as error:
        main([*words, "--output", str(tmp_path / "out"), "--dry-run"])
    assert "\n" not in str(error.value).strip()
    assert not (tmp_path / "out").exists()


def test_two_people_pair_the_same_files_the_same_way(tmp_path):
    texts = []
    for who in ("one", "two"):
        for folder, ending, count in (("photos", "png", 4), ("clips", "mp4", 3)):
            (tmp_path / who / folder).mkdir(parents=True)
            for k in range(count):
                (tmp_path / who / folder / f"{k}.{ending}").write_bytes(f"{folder} {k}".encode())
        root = tmp_path / who
        words = ["--portraits", str(root / "photos"), "--driving", str(root / "clips"), "--count", "5", "--matrix", "1"]
        assert main(["pairs", *words, "--output", str(root / "pairs.json")]) == 0
        texts.append((root / "pairs.json").read_text())
    assert texts[0] == texts[1]
    assert len(json.loads(texts[0])["pairs"]) >= 5
