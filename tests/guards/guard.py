"""What a guard is: a piece of code that prevents one harm, the text without it, and the tests that must notice."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Guard(NamedTuple):
    """One guard, and how it is taken out."""

    name: str
    #: The harm that comes without it.
    against: str
    file: str
    #: The text that is taken out, found exactly once in the file, and what is put in its place.
    taken: str
    put: str
    #: Node ids; at least one of them fails without the guard.
    tests: tuple[str, ...]

    def without(self, tree: Path = ROOT) -> str:
        """The file's text without the guard. Raises ValueError where the guard is not found exactly once."""
        text = (tree / self.file).read_text()
        if (count := text.count(self.taken)) != 1:
            raise ValueError(f"{self.name}: the text taken out stands {count} times in {self.file}, not once")
        return text.replace(self.taken, self.put)
