"""Pages as a reader sees them: opened by a headless Chromium, at any width, and measured there."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--no-first-run", "--hide-scrollbars", "--enable-logging=stderr", "--allow-file-access-from-files"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND"]  # what a page would fetch from elsewhere fails at once
HEIGHT = 1400
# A window has a least width, so each page stands in a frame of its own.
HOST = """<!doctype html><body>%s<pre></pre><script>
const seen = frame => {
  const page = frame.contentDocument, root = page.documentElement, images = [...page.images];
  const first = page.querySelector(".verdict strong") || page.querySelector("h1");
  return {
    excess: root.scrollWidth - root.clientWidth,
    images: images.length,
    broken: images.filter(i => !(i.complete && i.naturalWidth > 0)).length,
    anchors: [...page.querySelectorAll('a[href^="#"]')]
      .filter(a => a.hash && !page.getElementById(decodeURIComponent(a.hash.slice(1)))).length,
    page: getComputedStyle(page.body).backgroundColor,
    headline: first.getBoundingClientRect().bottom,
    narrow: first.getBoundingClientRect().right <= root.clientWidth,
  };
};
addEventListener("load", () => {
  document.querySelector("pre").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(seen));
});
</script></body>"""


def look(
    pages: Sequence[Path], width: int, place: Path, scheme: str = "light"
) -> tuple[list[dict[str, Any]], str]:
    """What is seen of each page at this width, and what the browser complained of.

    Of each: by how much it sticks out on the right (`excess`, px), `images` and those `broken`, links inside the page
    that lead nowhere (`anchors`), the `page`'s colour, and where its first words end (`headline`, px from the top).
    """
    place.mkdir(parents=True, exist_ok=True)
    frame = f'<iframe src="%s" width="{width}" height="{HEIGHT}" style="border:0"></iframe>'
    host = place / "host.html"
    host.write_text(HOST % "".join(frame % page.as_uri() for page in pages))
    flags = [*FLAGS, f"--user-data-dir={place / 'profile'}", f"--window-size={width},{HEIGHT}"]
    flags += [f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"]
    said = subprocess.run(
        [BROWSER, *flags, "--dump-dom", host.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<pre>(.*?)</pre>", said.stdout, re.S)[1]
    assert found, said.stderr
    return json.loads(html.unescape(found)), said.stderr
