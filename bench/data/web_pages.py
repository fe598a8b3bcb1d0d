"""What both sides read: the pages of a WARC file as text, one JSON record a line, and the measure of what they take out."""

import collections
import csv
import gzip
import json
import re
from pathlib import Path

WORD = re.compile(r"\w+")


def pages(warc):
    """Address and text of each `response` in a WARC file of gzip members."""
    data = gzip.open(warc).read()
    at = 0
    while at < len(data):
        head_end = data.index(b"\r\n\r\n", at)
        head = data[at:head_end].decode()
        length = int(re.search(r"(?i)content-length: *(\d+)", head).group(1))
        body = data[head_end + 4 : head_end + 4 + length]
        at = head_end + 4 + length + 4
        if "WARC-Type: response" in head:
            yield re.search(r"WARC-Target-URI: (\S+)", head).group(1), decoded(body)


def decoded(body):
    """The page behind the HTTP header, decoded as header or page say, UTF-8 if neither does."""
    head, page = body.split(b"\r\n\r\n", 1)
    said = (
        re.search(rb"(?i)charset=([\w-]+)", head)
        or re.search(rb"(?i)charset=[\"']?([\w-]+)", page[:2000])
        or re.search(rb"encoding=\"([\w-]+)\"", page[:200])
    )
    return page.decode(said.group(1).decode() if said else "utf-8", "replace")


def write_pages(warc, out):
    """Writes the pages; gives their number."""
    count = 0
    with open(out, "w") as file:
        for address, html in pages(warc):
            file.write(json.dumps({"id": address, "html": html}, ensure_ascii=False) + "\n")
            count += 1
    return count


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def expected(folder):
    """The expected text of some pages by their addresses."""
    folder = Path(folder)
    with open(folder / "index.csv") as index:
        return {row["url"]: (folder / row["file"]).read_text() for row in csv.DictReader(index)}


def words(text):
    return collections.Counter(WORD.findall(text.lower()))


def score(text, wanted):
    """Precision, recall and F1 of the words, each counted as often as it occurs."""
    found, wanted = words(text), words(wanted)
    common = sum((found & wanted).values())
    if common == 0:
        return 0.0, 0.0, 0.0
    precision, recall = common / sum(found.values()), common / sum(wanted.values())
    return precision, recall, 2 * precision * recall / (precision + recall)


def mean_score(texts, wanted):
    """The means over the pages that have an expected text."""
    scores = [score(texts.get(address, ""), text) for address, text in wanted.items()]
    return [sum(column) / len(scores) for column in zip(*scores)]
