"""Permanent codes go from what is kept of messages, and nothing else."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import messages
from bridge.messages import parse
from tests.fuzz import targets as fuzz


class Written(str):
    """A number as it is written."""


def read(text: str) -> Any:
    """JSON, objects as pairs, numbers as they are written."""
    return json.loads(text, object_pairs_hook=tuple, parse_float=Written, parse_int=Written)


def is_json(text: str) -> bool:
    try:
        return type(read(text)) in (tuple, list, str)
    except ValueError:
        return False


#: What is nowhere but in codes.
SECRET = "S3cret"
Parts = st.sampled_from(
    ["permanent_code", "permanentCode", '"', "\\", ":", " ", "{", "}", "[", ",", "\n", "\0", "é", "\u2028", "🐉", "x"]
)
Texts = st.lists(Parts, max_size=8).map("".join)
CodeNames = st.sampled_from(
    ["permanent_code", "permanentCode", "ch_permanent_code", "Permanent_Code ", '"permanent_code']
)
Codes = st.tuples(Texts, Texts).map(SECRET.join)
Scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | Texts


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(Texts.map(lambda text: text + "'") | CodeNames, inner, max_size=3)
    texts = st.builds(json.dumps, inner, ensure_ascii=st.booleans(), indent=st.none() | st.just(1))
    broken = st.builds(lambda text, at: text[: at % (len(text) + 1)], texts, st.integers(0, 500))
    with_codes = st.tuples(objects, st.dictionaries(CodeNames, Codes)).map(lambda both: both[0] | both[1])
    return st.lists(inner, max_size=3) | objects | with_codes | texts | broken


Coded = st.recursive(Scalars | st.dictionaries(CodeNames, Codes), _deeper, max_leaves=12)


class TestCodes:
    """Permanent codes go, and nothing else."""

    def same(self, sent: Any, found: Any, layers: int = messages.MAX_LAYERS) -> None:
        """Whether that is what was sent without its codes."""
        assert type(found) is type(sent)
        if isinstance(sent, (tuple, list)):
            assert len(found) == len(sent)
            for one, other in zip(sent, found, strict=True):
                if isinstance(sent, list):
                    self.same(one, other, layers)
                elif re.search(r"permanent_?code\s*$", one[0], re.I) and type(one[1]) is str:
                    assert other[1] == ""
                else:
                    self.same(one[0], other[0], layers)
                    self.same(one[1], other[1], layers)
        elif type(sent) is str and is_json(sent) and layers:
            self.same(read(sent), read(found), layers - 1)
        elif type(sent) is not str or "permanent" not in sent.lower():
            assert found == sent

    @given(st.dictionaries(Texts.map(lambda text: text + "'") | CodeNames, Coded), st.booleans())
    def test_nothing_else_changes_however_deep_they_lie(self, body: dict[str, Any], ascii_only: bool) -> None:
        message = json.dumps(body, ensure_ascii=ascii_only)
        found = messages.without_codes(message.encode()).decode()
        self.same(read(message), read(found))
        assert messages.without_codes(found.encode()).decode() == found

    @given(Coded)
    def test_none_stays(self, body: Any) -> None:
        for depth in range(3):
            text = json.dumps({"EventType": "x", "data": body})
            for _ in range(depth):
                text = json.dumps({"data": text, "permanent_code": SECRET})
            assert SECRET.encode() not in messages.without_codes(text.encode())

    @pytest.mark.parametrize(
        "name", ['permanent_code":', "permanent_code\":'", 'x permanent_code":"', 'permanent_code":\\']
    )
    def test_a_text_that_ends_like_the_name_of_a_code_spoils_nothing(self, name: str) -> None:
        body = {"EventType": "user_add_org", "name": name, "x": "a", "y": 'b"c', "UserId": ["u"]}
        for sent in (body, body | {"extension": json.dumps(body)}):
            (event,) = parse(json.dumps(sent).encode(), "acme", None).events
            assert json.loads(bytes(event.payload)) == sent

    @pytest.mark.parametrize("text", [r"C:\x permanent", r'"C:\projekt\permanent" now'])
    def test_a_text_with_that_word_alone_stays(self, text: str) -> None:
        message = json.dumps({"EventType": "x", "remark": f'see "{text}'}).encode()
        assert messages.without_codes(message) == message

    def test_what_is_beside_them_stays_byte_for_byte(self) -> None:
        message = (
            rb'{"n":1.10,"m":1E5,"k":-0,"t":"\/\u4e2d","l":[12345678901234567890123],"permanentCode" : "a\"b","d":1}'
        )
        assert messages.without_codes(message) == message.replace(rb'"a\"b"', b'""')

    @pytest.mark.parametrize(
        "text",
        [
            b'{"permanent_code":"abc',
            b'{"permanent_code":"abc\\',
            rb'{"a":"{\"permanent_code\":\"abc',
            rb'{"a":"\q{\"permanent_code\":\"abc\"}"}',
            b'\xff{"permanent_code":"abc\xfe"}',
            b'<p>5" "permanent_code": "abc"',
        ],
    )
    def test_also_of_what_is_no_json(self, text: bytes) -> None:
        assert b"abc" not in messages.without_codes(text)

    def test_one_that_lies_deeper_than_anybody_reads(self) -> None:
        text = f'{{"permanent_code":"{SECRET}"}}'
        for _ in range(400):  # escaped in the way in which it grows least
            text = '"' + text.replace("\\", "\\u005c").replace('"', "\\u0022") + '"'
        message = f'{{"EventType":"x","data":{text}}}'.encode()
        fuzz.parse(message)
        assert SECRET.encode() not in messages.without_codes(message)

    def test_a_long_text_takes_no_time_and_no_memory(self) -> None:
        for filling in (b"\\\\" * 200_000, b"a" * 400_000, b'\\"permanent_code' * 20_000, b" " * 400_000):
            fuzz.parse(b'{"EventType":"x","permanent_code":"' + filling + b'","y":"' + filling + b'"}')
