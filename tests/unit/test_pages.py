# SPDX-License-Identifier: Apache-2.0
"""Pages over HTTP, as a browser asks for them: what they cost, and what is answered to whom."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from statistics import median

import pytest

from shadowwatch import pages
from shadowwatch.daemon.loop import PERIOD_SECONDS
from shadowwatch.event.abi import Batch
from shadowwatch.metrics.exporter import open_listener, serve
from shadowwatch.pages import Here, Pages, place_of
from shadowwatch.watch import Watch
from shadowwatch.web.config import Web, load
from shadowwatch.web.server import Answer
from tests.bench import scrape_cost
from tests.captures import CAPTURES
from tests.unit.daemon import STATUS
from tests.unit.kernelless import Kernelless
from tests.unit.lively import Guest, LivelyDaemon
from tests.unit.story import FACTS, Story
from tests.unit.test_exporter import get
from tests.unit.test_page import HOSTILE, Parsed, story_of
from tests.unit.test_web import hashed

#: Resident at its highest, as the service is tested for in the lab.
RESIDENT_KIB = 40_000


def pages_of(watch: Watch) -> Pages:
    """Its pages."""
    return Pages(Here(watch, lambda: STATUS))


def served(watch: Watch, web: Web | None = None) -> str:
    """Serve its pages, and return the address."""
    return serve(watch, open_listener("127.0.0.1:0"), pages_of(watch).answer, web or Web()).address


def called(*names: str) -> Watch:
    """A VM of each of these names."""
    watch = Watch(FACTS, lambda pid: names[pid])
    for number in range(len(names)):
        story = Story(kvm=0x1000 * (number + 1), pid=number)
        story.alloc(1, level=2)
        watch.take(Batch(time.monotonic_ns(), 0, 0, story.records()))
    watch.take(Batch(time.monotonic_ns(), 0, 0, b""))
    return watch


def test_the_landing_page_shows_state_and_escapes_names() -> None:
    """Host, kernel, KVM, probes, VMs, losses, how many are exact, and links; a VM's name is somebody else's text."""
    status, content_type, body = get(served(called('a<b>"c"')), "/")
    assert status == 200
    assert content_type == "text/html; charset=utf-8"
    assert "a&lt;b&gt;&quot;c&quot;" in body
    assert "a<b>" not in body
    for said in (
        "<h1>shadowwatch on kvm1</h1>",
        "Linux 6.1.0-test, KVM patched, policy parents, 2 probes. Shadow paging:",
        "VMs: 1 running, 1 of them exact. Events: 1 received, 0 lost.",
        '<a href="/metrics">',
        '<a href="/runbook">',
    ):
        assert said in body


NAMES = ["web1", ".", "..", "...", "/", "a/../b", "//", "/metrics", "100%", "%2F", "%252e", "a b?c#d", "ü€", "4711+"]


def test_every_name_leads_to_its_own_page() -> None:
    """Whatever a server makes of slashes, dots and percents in a path; the links are those of the first page."""
    names = [*NAMES, *HOSTILE]
    address = served(called(*names))
    parsed = Parsed(get(address, "/")[2])
    links = [link for link in parsed.links if link.startswith("/vm/")]
    assert sorted(links) == sorted(map(place_of, names))
    for name in names:
        status, _, body = get(address, place_of(name))
        assert (status, f"{name} on kvm1" in Parsed(body).text) == (200, True), name


def test_the_path_of_a_plain_name_is_plain() -> None:
    """It can be typed."""
    assert place_of("web-1.example_2") == "/vm/web-1.example_2"
    assert 'class="says"' in get(served(called("web1")), "/vm/%77eb1")[2]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/vm/web9", "there is no VM 'web9'; / has those that there are\n"),
        ("/vm/", "there is no VM ''; / has those that there are\n"),
        ("/vm/%0A%3Cb%3E%1B", "there is no VM '\\n<b>\\x1b'; / has those that there are\n"),
        ("/vm", "try /, /metrics or /runbook\n"),
        ("/vms", "try /, /metrics or /runbook\n"),
    ],
)
def test_a_vm_that_is_not_there_is_one_line(path: str, said: str) -> None:
    """Plain text, whatever was asked for."""
    assert get(served(called("web1")), path) == (404, "text/plain; charset=utf-8", said)


def test_of_a_long_name_that_is_not_there_a_part_is_said() -> None:
    """And of bytes that are no text, marks."""
    address = served(called("web1"))
    assert len(get(address, f"/vm/{'x' * 5000}")[2]) < 200
    assert get(address, "/vm/%FF%FE")[0] == 404


def test_passwords_are_asked_for_here_too(tmp_path: Path) -> None:
    """web.config is about every path."""
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  alice: {hashed('open')}\n")
    address = served(called("web1"), load(str(path)))
    for page in ("/", "/vm/web1", "/vm/web9"):
        assert get(address, page)[::2] == (401, "Unauthorized\n")
        request = urllib.request.Request(f"http://{address}{page}")
        request.add_header("Authorization", f"Basic {base64.b64encode(b'alice:open').decode()}")
        if page == "/vm/web9":
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(request, timeout=10)
        else:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert "kvm1" in answer.read().decode()


def body_of(asked: Pages, path: str = "/") -> str:
    """What is answered, if anything is."""
    answer = asked.answer(path)
    assert answer
    return b"".join(answer.body).decode()


def test_rates_are_those_since_a_look_shortly_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks at once again gets the same; after a long while what was counted before says nothing about now."""
    daemon = LivelyDaemon()
    asked = pages_of(daemon.watch)

    def go_on() -> None:
        for batch in daemon.batches[daemon.looks * 4 : daemon.looks * 4 + 4]:
            daemon.watch.take(batch)
        daemon.looks += 1

    go_on()
    assert "Measuring:" in body_of(asked)
    go_on()
    assert "Measuring:" in body_of(asked)
    monkeypatch.setattr(pages, "SOON_SECONDS", 0.0)
    assert "web1 thrashes: KVM reclaims 432 shadow pages/s" in body_of(asked)
    assert "Rates are over the 1.0 s before." in body_of(asked, "/vm/web1")
    go_on()
    monkeypatch.setattr(pages, "OLD_SECONDS", 0.0)
    assert "Measuring:" in body_of(asked)


def test_who_asks_for_too_much_is_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages take a share of a core at most; metrics and health are answered all the same."""
    monkeypatch.setattr(pages, "SHARE", 1e-9)
    monkeypatch.setattr(pages, "AT_ONCE_SECONDS", 0.0)
    address = served(called("web1"))
    assert get(address, "/")[0] == 200
    for page in ("/", "/vm/web1", "/vm/web9"):
        status, _, said = get(address, page)
        assert (status, bool(re.fullmatch(r"too many pages were asked for; ask again in \d+ s\n", said))) == (503, True)
    assert get(address, "/metrics")[0] == get(address, "/-/healthy")[0] == 200


def test_a_vm_that_is_too_large_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would hold the loop; it has a page all the same."""
    address = served(called("web1"))
    assert 'id="tree"' in get(address, "/vm/web1")[2]
    monkeypatch.setattr(pages, "LARGE", 0)
    monkeypatch.setattr(Watch, "detail", None)
    status, _, body = get(address, "/vm/web1")
    assert (status, 'id="tree"' in body, "web1 has too many shadow pages" in body) == (200, False, True)


def test_a_person_who_clicks_is_never_refused() -> None:
    """A page takes a few milliseconds of a second that may be used at once."""
    address = served(called(*(f"web{number}" for number in range(30))))
    assert [get(address, place_of(f"web{number}"))[0] for number in range(30)] == [200] * 30


@pytest.mark.parametrize("vms", [0, 1])
def test_few_vms_have_pages(vms: int) -> None:
    """None, too."""
    body = Parsed(get(served(called(*["web1"][:vms])), "/")[2])
    assert f"VMs: {vms} running" in body.text
    assert body.elements["tr"] == (2 if vms else 0)


def test_a_replay_has_pages() -> None:
    """Rates are those of the whole recording, and nothing is looked at again."""
    command = [sys.executable, "-m", "shadowwatch", "replay", str(CAPTURES["stock"]), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replay:
        try:
            assert replay.stdout
            found = re.search(r"http://([\d.:]+)/", replay.stdout.readline())
            assert found
            body = get(found[1], "/")[2]
            assert "refresh" not in body
            text = Parsed(body).text
            assert "As of the end of the recording. Rates are over the 1.8 s before." in text
            assert "zipf has ended." in Parsed(get(found[1], "/vm/zipf")[2]).text
        finally:
            replay.kill()


def resident_kib(daemon: Kernelless) -> int:
    """Its memory at its highest."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_the_confined_daemon_draws_with_what_it_loads_then() -> None:
    """Only when somebody asks; it fits into what the service is tested for, and says nothing."""
    with Kernelless() as daemon:
        guest = Guest(1)
        for _ in range(20):
            guest.turn()
        daemon.put(guest.take())
        assert get(daemon.address, "/metrics")[0] == 200
        for path in ("/", "/vm/1"):
            assert get(daemon.address, path)[0] == 200
        assert resident_kib(daemon) < RESIDENT_KIB
        daemon.end()
        assert daemon.said[1:] == []


def test_who_is_only_scraped_loads_nothing_that_draws() -> None:
    """A daemon is a guest on its host."""
    told = "import sys, shadowwatch.daemon.loop; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert "shadowwatch.pages" in done.stdout.split()
    assert [name for name in done.stdout.split() if name.startswith(("rich", "shadowwatch.view"))] == []


#: Prints what of view/ is loaded whenever a page's time is taken.
TIMED = """
import sys, time
from shadowwatch.pages import Here, Pages
from tests.unit.test_exporter import watching
from tests.unit.daemon import STATUS
real = time.thread_time
def told():
    print("shadowwatch.view.page" in sys.modules, "shadowwatch.view.frames" in sys.modules)
    return real()
print("shadowwatch.view" in sys.modules)
time.thread_time = told
Pages(Here(watching(), lambda: STATUS)).answer("/")
"""


def test_what_is_loaded_once_is_not_at_the_askers_expense() -> None:
    """On a slow machine it takes a second, and the next page would be refused."""
    done = subprocess.run([sys.executable, "-c", TIMED], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue True\nTrue True\n"


@pytest.mark.soak
def test_pages_of_a_large_host_are_cheap_and_the_loop_goes_on() -> None:
    """A thousand VMs, one of which has 24,000 pages: bounds for a loaded machine, the medians of five."""
    guests = [Guest(number + 1000) for number in range(999)]
    with Kernelless() as daemon:
        for _ in range(6):
            daemon.put(scrape_cost.events(guests))
        daemon.put(story_of(24_000, pid=7).records())
        spans: dict[str, list[tuple[int, int]]] = {"/": [], "/vm/7": [], "/vm/1000": []}
        spent: dict[str, list[float]] = {path: [] for path in spans}
        for path in list(spans) * 5:
            daemon.put(scrape_cost.events(guests))
            # By then it is another look, and more than this page may be used.
            time.sleep(max(2 * pages.SOON_SECONDS, 2 * max(spent[path], default=0) / 1e3 / pages.SHARE))
            before, begun = daemon.cpu_ns(), time.monotonic_ns()
            status, _, body = get(daemon.address, path)
            spans[path].append((begun, time.monotonic_ns()))
            time.sleep(2 * PERIOD_SECONDS)
            spent[path].append((daemon.cpu_ns() - before) / 1e6)
            assert (status, len(body) < 100_000) == (200, True)
        looks = daemon.end()
    for path, each in spans.items():
        late = scrape_cost.late(looks, each)
        # A VM is copied as a whole at one moment, for `shadowwatch tree` as for its page.
        large = path == "/vm/7"
        assert median(spent[path]) < (600 if large else 250)
        assert median(late) < (150 if large else 25)


#: Shows a page of the same server in a frame of this width, and tells how wide its content is, how many elements go
#: beyond the frame, and how many lines its tables have.
WRAPPER = """<!DOCTYPE html><iframe style="width:{width}px;height:900px" src="{path}"></iframe>
<script>onload = () => {{
const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
const wide = [...page.querySelectorAll("body > *")].filter(each => each.getBoundingClientRect().right > {width});
document.title = [root.scrollWidth, wide.length, page.querySelectorAll("tr").length].join(" ");
}}</script>"""


@pytest.mark.soak
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("path", ["/", place_of(HOSTILE[-1])])
def test_in_a_browser_no_page_is_wider_than_its_window(path: str, width: int, tmp_path: Path) -> None:
    """On a telephone, and on a large screen; what is wide scrolls by itself."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("there is no chromium to look at pages with; apt install chromium")
    wrapper = Answer(HTTPStatus.OK, "text/html", [WRAPPER.format(width=width, path=path).encode()])
    made = pages_of(called(*HOSTILE))

    def answer(asked: str) -> Answer | None:
        return wrapper if asked == "/wrapper" else made.answer(asked)

    address = serve(called(), open_listener("127.0.0.1:0"), answer, Web()).address
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--window-size=1600,1000")
    command = [browser, *flags, f"--user-data-dir={tmp_path}", "--dump-dom", f"http://{address}/wrapper"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert found, done.stdout
    across, wide, lines = map(int, found.groups())
    assert across <= width
    assert (wide, lines) == (0, 2 if path != "/" else 1 + len(HOSTILE))
