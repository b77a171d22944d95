"""A page as Chromium shows it: what is in it, what it complains of, what it asks the network for."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PROBE = """<script nonce="probe">
addEventListener("load", () => {
  const found = {
    images: Array.from(document.images, (image) => [image.alt, image.naturalWidth, image.clientWidth]),
    headings: Array.from(document.querySelectorAll("h1, h2"), (heading) => heading.innerText),
    captions: Array.from(document.querySelectorAll("figcaption"), (caption) => caption.innerText),
    rows: Array.from(document.querySelectorAll("tr"), (row) => Array.from(row.cells, (cell) => cell.innerText)),
    wider: document.documentElement.scrollWidth - innerWidth,
    paper: getComputedStyle(document.body).backgroundColor,
  };
  const probe = document.createElement("script");
  probe.type = "found";
  probe.text = JSON.stringify(found);
  document.body.append(probe);
});
</script>"""


@dataclass
class Shown:
    """What a browser has made of a page.

    Attributes:
        found: of the rendered page: images [(alt, width of the file, width on the page)], headings, captions, rows of
            tables, by how many pixels it is wider than the window, and the colour of its background.
        messages: of the console.
        requests: URLs that the page made the browser ask the network for.
        picture: PNG of the window.
    """

    found: dict
    messages: list[str]
    requests: list[str]
    picture: Path


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def show(page: Path, folder: Path, width: int = 1280, height: int = 2000, dark: bool = False) -> Shown:
    """Loads a copy of the page that may run one script more, which looks at the rest."""
    text = page.read_text(encoding="utf-8")
    assert text.count("default-src 'none'") == text.count("</head>") == 1
    text = text.replace("default-src 'none'", "default-src 'none'; script-src 'nonce-probe'")
    folder.mkdir()
    copy, network, picture = folder / "page.html", folder / "network.json", folder / "page.png"
    copy.write_text(text.replace("</head>", _PROBE + "</head>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", "--enable-logging=stderr"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={network}", f"--window-size={width},{height}"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={picture}", "--dump-dom"]
    command = [find_browser(), *options, copy.as_uri()]
    browser = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    probe = re.search(r'<script type="found">(.*?)</script>', browser.stdout, re.DOTALL)
    assert probe, f"the page was not loaded to its end:\n{browser.stderr}"
    messages = [line for line in browser.stderr.splitlines() if "CONSOLE" in line]
    return Shown(json.loads(probe[1]), messages, _requests(network), picture)


def _requests(log: Path) -> list[str]:
    """Those of the page: the browser itself also asks whether it is up to date."""
    started = (event.get("params", {}) for event in json.loads(log.read_text(encoding="utf-8"))["events"])
    of_page = (params for params in started if "file://" in params.get("network_isolation_key", ""))
    return sorted({params["url"] for params in of_page if not params.get("url", "data:").startswith("data:")})
