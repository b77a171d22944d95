import json

import pytest

from libra_d2.checks import FileError, UserError
from libra_d2.data.json_file import in_plain_utf8, read_json

CONTENT = {"categories": [{"name": "blåbær"}]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_pycocotools_gets_is_plain(encoding, tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(json.dumps(CONTENT, ensure_ascii=False).encode(encoding))
    assert read_json(str(file)) == CONTENT
    with in_plain_utf8(str(file)) as readable:
        assert (readable == str(file)) == (encoding == "utf-8")
        with open(readable, encoding="utf-8") as f:
            assert json.load(f) == CONTENT


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileError, match=r"gone.json: expected a COCO json file that can be read"):
        read_json(str(tmp_path / "gone.json"))
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(UserError, match=r"bad.json: expected a COCO json file, but it cannot be parsed"):
        read_json(str(tmp_path / "bad.json"))
