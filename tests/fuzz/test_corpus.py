"""The inputs that fuzzing found worth keeping: each as it is, and changed at random."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
KEPT = {target: sorted((CORPUS / target).iterdir()) for target in TARGETS}
EDIT = st.tuples(
    st.floats(0, 1), st.integers(0, 40), st.binary(max_size=20) | st.sampled_from([b"[{", b"}]", b"0" * 9])
)


@pytest.mark.parametrize(
    "path", [path for kept in KEPT.values() for path in kept], ids=lambda path: f"{path.parent.name}-{path.name[:8]}"
)
def test_a_kept_input(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=500)
@given(st.data())
def test_a_kept_input_that_was_changed(target: str, data: st.DataObject) -> None:
    changed = data.draw(st.sampled_from(KEPT[target])).read_bytes()
    for where, gone, put in data.draw(st.lists(EDIT, min_size=1, max_size=4)):
        at = round(where * len(changed))
        changed = changed[:at] + put + changed[at + gone :]
    TARGETS[target](changed)


def test_the_corpus_stays_small() -> None:
    assert all(KEPT.values())
    sizes = [path.stat().st_size for kept in KEPT.values() for path in kept]
    assert len(sizes) < 200 and sum(sizes) < 300_000
