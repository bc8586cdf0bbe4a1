"""Bodies: any JSON object, however it was cut, or ValueError."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import lenient


def test_bodies() -> None:
    assert lenient.decode('{"name":"张三"}'.encode()) == {"name": "张三"}
    assert lenient.decode(b'{"order":99999999999999999999}') == {"order": 99999999999999999999}
    assert lenient.decode(b'{"name":"a\\u0000b"}') == {"name": "a\ufffdb"}
    assert lenient.decode(b'{"name":"cut \\ud83d","order":176305901987690512}') == {
        "name": "cut ?",
        "order": 176305901987690512,
    }
    assert lenient.decode(b'\xef\xbb\xbf{"name":"\xff"}') == {"name": "\ufffd"}
    assert lenient.decode('{"errcode":0,"name":"张'.encode()[:-1] + b'"}') == {"errcode": 0, "name": "\ufffd"}


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b'{"a":', b'"text"', b"1", b"\x00"])
def test_bodies_that_are_no_object(body: bytes) -> None:
    with pytest.raises(ValueError):
        lenient.decode(body)


@settings(deadline=None, database=None)
@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_any_body_is_an_object_or_a_value_error(body: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(lenient.decode(body), dict)
