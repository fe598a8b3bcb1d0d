"""Takes the content out of pages with a Python package; prints one JSON line like the example bench_extract.

    python peer.py trafilatura|resiliparse|whole pages.jsonl texts.jsonl [rounds]

The time is the processor's, of one thread, the best of the rounds. `whole` is all text of the page, without the head.
"""

import json
import sys
import time

from pages import read


def extractor(name):
    if name == "trafilatura":
        import trafilatura

        # Its defaults but for the comments, which ours leaves out too.
        return lambda html: trafilatura.extract(html, include_comments=False) or ""
    from resiliparse.extract.html2text import extract_plain_text

    if name == "resiliparse":
        return lambda html: extract_plain_text(html, main_content=True)
    return lambda html: extract_plain_text(html, main_content=False)


def main():
    name, pages, out, *rounds = sys.argv[1:]
    extract = extractor(name)
    pages = read(pages)
    best = float("inf")
    for _ in range(int(rounds[0]) if rounds else 1):
        start = time.process_time()
        texts = [extract(page["html"]) for page in pages]
        best = min(best, time.process_time() - start)
    with open(out, "w") as file:
        for page, text in zip(pages, texts):
            file.write(json.dumps({"id": page["id"], "text": text}, ensure_ascii=False) + "\n")
    print(json.dumps({"pages": len(pages), "seconds": best, "pages_per_second": len(pages) / best}))


main()
