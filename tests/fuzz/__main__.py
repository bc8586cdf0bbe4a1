"""`python -m tests.fuzz TARGET [libFuzzer's options and corpus folders]`; see `make fuzz`."""

import sys
import tracemalloc

import atheris

with atheris.instrument_imports(include=["bridge"]):
    from tests.fuzz.targets import TARGETS

target = sys.argv[1]
tracemalloc.start()
# libFuzzer starts itself anew, by a shell, to merge a corpus.
atheris.Setup([f"{sys.executable} -m tests.fuzz {target}", *sys.argv[2:]], TARGETS[target])
atheris.Fuzz()
