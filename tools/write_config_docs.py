"""Writes the tables of docs/config.md from libra_d2/config/keys.py; the text above them is kept.

python tools/write_config_docs.py
"""

from pathlib import Path

from libra_d2.config.keys import GROUPS, Key

PAGE = Path(__file__).resolve().parent.parent / "docs" / "config.md"
MARK = "<!-- From here on written by tools/write_config_docs.py: change libra_d2/config/keys.py and run it again. -->\n"


def page(old: str) -> str:
    """``old`` up to the mark, and behind it a table for each group of keys."""
    above, mark, _ = old.partition(MARK)
    if not mark:
        raise ValueError(f"{PAGE} lacks the line {MARK}")
    return above + mark + "".join(_table(title, keys) for title, keys in GROUPS.items())


def _table(title: str, keys: tuple[Key, ...]) -> str:
    rows = (f"| `{key.name}` | `{_shown(key.default)}` | {key.meaning.replace('|', chr(92) + '|')} |\n" for key in keys)
    return f"\n### {title}\n\n| key | default | meaning |\n|---|---|---|\n" + "".join(rows)


def _shown(default: object) -> str:
    """As one would type it behind the key on the command line."""
    return str(default) if default != "" else '""'


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
