"""Uses the page of examples/space in a headless Chromium; prints what it saw as JSON.

It runs in an environment that has gradio and selenium, which are no dependencies of the package:

    python space_browser.py APP CLIP SCREENSHOTS DESIGN QUESTION ANOTHER_QUESTION
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

# A busy machine takes minutes to import torch.
WAIT = 600
DESKTOP, PHONE = (1280, 1000), (390, 844)


def serve(app: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the page, and wait until it answers."""
    environment = {
        **os.environ,
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen([sys.executable, app.name], cwd=app.parent, env=environment, stdout=sys.stderr)
    for _ in range(WAIT):
        if process.poll() is not None:
            raise SystemExit("The app stopped by itself.")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
            return process
        except OSError:
            time.sleep(1)
    process.terminate()
    raise SystemExit("The app does not answer.")


def open_browser(width: int, height: int) -> Any:
    """A headless Chromium of a certain size; a narrow one behaves as a phone."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    if width < 500:
        options.add_experimental_option(
            "mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0}}
        )
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_window_size(width, height)
    return browser


class Page:
    """The page, by what a visitor does."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)
        self.until(lambda: self.find("#ask"))

    def find(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def until(self, holds: Callable[[], Any], seconds: float = WAIT) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := holds():
                return found
            time.sleep(0.3)
        raise SystemExit(f"Nothing happened. The page says: {self.texts('body')}")

    def texts(self, selector: str) -> list[str]:
        """What stands in the elements. One script reads all: the page replaces them while an answer is written."""
        script = "return [...document.querySelectorAll(arguments[0])].map(item => item.innerText)"
        return [text.strip() for text in self.browser.execute_script(script, selector)]

    def status(self) -> str:
        return "".join(self.texts("#status"))

    def upload(self, clip: str) -> None:
        self.find("#video input[type=file]")[0].send_keys(clip)
        self.until(lambda: self.find("#video video"))

    def choose(self, design: str) -> None:
        box = self.find("#design input")[0]
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(design, Keys.ENTER)
        time.sleep(1)

    def ask(self, question: str) -> None:
        box = self.find("#question textarea, #question input")[0]
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(Keys.BACKSPACE, question)
        time.sleep(0.5)
        # A click at a place would miss, because the page still moves when pictures appear.
        self.browser.execute_script("arguments[0].click()", self.find("#ask")[0])

    def answers(self) -> list[str]:
        return self.texts("#chat .message.bot")

    def wait_for_answers(self, count: int) -> list[str]:
        """The answers, when the page has done all that it does for a question."""

        def written() -> list[str] | None:
            found = self.answers()
            done = len(found) >= count and found[-1] and self.is_quiet()
            return found if done else None

        return list(self.until(written))

    def is_quiet(self, seconds: float = 3) -> bool:
        """Whether the status stays empty; for a moment it is also empty between two steps."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.status():
                return False
            time.sleep(0.3)
        return True

    def too_wide(self) -> int:
        """Pixels by which the page is wider than the screen."""
        return int(
            self.browser.execute_script(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
        )

    def picture(self, path: Path) -> None:
        """A screenshot of the whole page, also of what does not fit on the screen."""
        self.browser.execute_script("window.scrollTo(0, 0)")
        time.sleep(1)
        size = self.browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        area = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": area})
        path.write_bytes(base64.b64decode(shot["data"]))


def visit(
    address: str, size: tuple[int, int], clip: str, shots: Path, design: str, questions: list[str]
) -> dict[str, Any]:
    """Upload, ask all questions, and look at the page."""
    browser = open_browser(*size)
    try:
        page = Page(browser, address)
        page.ask("What moves?")
        page.until(lambda: "video" in page.status())
        without_video = page.status()
        page.choose(design)
        page.upload(clip)
        page.ask(" ")
        page.until(lambda: "question" in page.status())
        without_question = page.status()
        for number, question in enumerate(questions, start=1):
            page.ask(question)
            page.wait_for_answers(number)
        page.until(lambda: page.find("#frames img"))
        time.sleep(2)
        page.picture(shots / f"{'phone' if size[0] < 500 else 'desktop'}.png")
        return {
            "answers": page.answers(),
            "frames": len(page.find("#frames .thumbnail-item img, #frames .grid-container img")),
            "look": len(page.find("#look img")),
            "too_wide": page.too_wide(),
            "without_video": without_video,
            "without_question": without_question,
        }
    finally:
        browser.quit()


def main() -> None:
    app, clip, shots, design, *questions = sys.argv[1:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = serve(Path(app), port)
    try:
        seen = {
            name: visit(f"http://127.0.0.1:{port}", size, clip, Path(shots), design, questions)
            for name, size in (("desktop", DESKTOP), ("phone", PHONE))
        }
        print(json.dumps(seen))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
