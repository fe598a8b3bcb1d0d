"""One side of the measurement of web pages' content: takes it out, and scores it against the expected text.

    python peer_extract.py SIDE pages.jsonl EXPECTED [PROGRAM] [SETTINGS]

SIDE is `trafilatura`, `resiliparse`, `whole` (all text of the page, by resiliparse) or `ours` (PROGRAM is the example
bench_extract). Prints JSON lines with `name` and `value`: pages per second of one core, and f1, precision and recall.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from web_pages import expected, mean_score, read


def extractor(name):
    if name == "trafilatura":
        import trafilatura

        # Its defaults but for the comments, which ours leaves out too.
        return lambda html: trafilatura.extract(html, include_comments=False) or ""
    from resiliparse.extract.html2text import extract_plain_text

    return lambda html: extract_plain_text(html, main_content=name == "resiliparse")


def by_package(name, pages):
    extract = extractor(name)
    pages = read(pages)
    start = time.process_time()
    texts = {page["id"]: extract(page["html"]) for page in pages}
    return len(texts) / (time.process_time() - start), texts


def by_program(pages, program, settings=""):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "texts.jsonl"
        done = subprocess.run([program, pages, out, "1", settings], check=True, stdout=subprocess.PIPE, text=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        speed = next(row["value"] for row in rows if row["name"] == "pages")
        return speed, {row["id"]: row["text"] for row in read(out)}


def main():
    side, pages, wanted, *program = sys.argv[1:]
    speed, texts = by_program(pages, *program) if side == "ours" else by_package(side, pages)
    precision, recall, f1 = mean_score(texts, expected(wanted))
    for name, value in {"pages": speed, "f1": f1, "precision": precision, "recall": recall}.items():
        print(json.dumps({"name": name, "value": value}))


main()
