"""The main content of web pages: speed and F1 beside trafilatura and resiliparse."""

from bench import peer
from common import row
from web_pages import write_pages

NEEDS = ["trafilatura==2.3.1", "lxml_html_clean", "resiliparse==2.0.1"]
PEERS = ["trafilatura", "resiliparse", "whole"]


def rows(bench):
    pages, wanted = bench.file("pages.jsonl"), bench.data / "eval" / "html_expected"
    count = write_pages(bench.data / "pretrain" / "web" / "sample.warc.gz", pages)
    side = lambda name, *more: peer("peer_extract.py", name, pages, wanted, *more)
    sides = {"ours": side("ours", bench.example("bench_extract"))} | {name: side(name) for name in PEERS}
    medians, failed = bench.turns(sides)
    figure = lambda name, what: medians.get(name, {}).get(what)
    told = {"pages": f"pages per CPU-second, {count} pages", "f1": "F1 of words, mean of 40 pages"}
    for what, unit in told.items():
        # The expected text was made by trafilatura, so its F1 is 1 whatever it leaves out.
        names = [name for name in PEERS if what == "pages" or name != "trafilatura"]
        peers = {name: figure(name, what) for name in names if name != "whole" or what == "f1"}
        best = max((name for name in peers if peers[name] is not None), key=peers.get, default=None)
        more = {"peers": peers, "best_peer": best} if best else {}
        limit = 10 * (figure("trafilatura", what) or 0) or None if what == "pages" else 0.9
        yield row(f"html {what}", unit, figure("ours", what), peers.get(best), limit, failed=failed, **more)
    yield row(
        "html precision and recall", "mean of 40 pages", figure("ours", "precision"), figure("resiliparse", "precision"),
        recall=figure("ours", "recall"), peer_recall=figure("resiliparse", "recall"),
    )
