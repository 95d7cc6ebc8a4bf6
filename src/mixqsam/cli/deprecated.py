"""Old spellings of options. They work for one release, with a warning on standard error."""

from mixqsam.cli.console import err

# Command ("" for all) and old flag → new flag.
OLD_FLAGS = {
    ("", "--lambda"): "--synergy-weight",
    ("", "--float"): "--reference",
    ("quantize", "--check"): "--eval-limit",
    ("compare", "--limit"): "--eval-limit",
}


def modernise(command: str, words: list[str]) -> list[str]:
    """The words of a command line with old flags replaced; each is named in a warning."""
    end = words.index("--") if "--" in words else len(words)
    return [_modern(command, word) for word in words[:end]] + words[end:]


def _modern(command: str, word: str) -> str:
    flag, equals, value = word.partition("=")
    new = OLD_FLAGS.get(("", flag)) or OLD_FLAGS.get((command, flag))
    if new is None:
        return word
    err.print(f"Warning: {flag} is now {new}; the next release drops the old name.", style="yellow", highlight=False)
    return new + equals + value


def renamed(command: str, name: str, *, source: object) -> str:
    """The name of an option in a configuration file, in its present spelling; an old one is named in a warning."""
    flag = "--" + name.replace("_", "-")
    new = OLD_FLAGS.get(("", flag)) or OLD_FLAGS.get((command, flag))
    if new is None:
        return name
    current = new.removeprefix("--").replace("-", "_")
    err.print(
        f"Warning: {source}: {name} is now {current}; the next release drops the old name.",
        style="yellow",
        highlight=False,
    )
    return current
