"""Two thousand documents of many kinds, made from the test material: what filters are compared and measured on."""

import gzip
import json
import random
import re
from html.parser import HTMLParser

import zstandard

SEED = 7
# Of each kind, of 2,000.
SHARES = {"books": 640, "wrapped": 100, "brown": 300, "webtext": 260, "speeches": 124, "wikitext": 110, "web": 346, "chinese": 120}
# A longer document is cut off: datatrove reads a third of a megabyte in a second.
MOST_CHARACTERS = 20_000


def write_documents(data, path, count=2000):
    """Writes `id` and `text` as JSON lines, `count` documents in random order; each kind keeps its share."""
    rng, documents = random.Random(SEED), []
    for kind, share in SHARES.items():
        texts = [text for text in KINDS[kind](data / "pretrain", data, rng) if text.strip()]
        rng.shuffle(texts)
        wanted = max(1, share * count // 2000)
        documents += [(f"{kind}/{i}", text[:MOST_CHARACTERS]) for i, text in enumerate(texts[:wanted])]
    rng.shuffle(documents)
    with open(path, "w", encoding="utf-8") as out:
        for name, text in documents:
            out.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")


def paragraphs(pretrain):
    """The paragraphs of each book, with their line breaks."""
    for path in sorted((pretrain / "books").glob("*.txt")):
        yield [part for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")) if part.strip()]


def runs(parts, rng, longest):
    """Runs of 1 to `longest` parts, one after another."""
    at = 0
    while at < len(parts):
        n = rng.randint(1, longest)
        yield parts[at : at + n]
        at += n


def books(pretrain, _, rng):
    for parts in paragraphs(pretrain):
        joined = [" ".join(part.split()) for part in parts]
        for run in runs(joined, rng, 40):
            yield rng.choice(["\n", "\n\n"]).join(run)


def wrapped(pretrain, _, rng):
    for parts in paragraphs(pretrain):
        yield from ("\n\n".join(run) for run in runs(parts, rng, 40))


def json_lines(path):
    if path.suffix == ".gz":
        data = gzip.decompress(path.read_bytes())
    else:
        data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    return [json.loads(line) for line in data.decode("utf-8").splitlines() if line]


def brown(pretrain, _, rng):
    return [record["text"] for record in json_lines(pretrain / "brown.jsonl.zst")]


def speeches(pretrain, _, rng):
    return [record["text"] for record in json_lines(pretrain / "us_speeches.jsonl.gz")]


def webtext(pretrain, _, rng):
    by_source = {}
    for record in json_lines(pretrain / "webtext.jsonl.zst"):
        by_source.setdefault(record["source"], []).append(record["text"])
    for lines in by_source.values():
        yield from ("\n".join(run) for run in runs(lines, rng, 60))


def wikitext(_, data, rng):
    for name in ["valid.txt", "test.txt"]:
        text = (data / "eval" / "wikitext2" / name).read_text(encoding="utf-8")
        yield from re.split(r"\n(?= = [^=])", text)


def chinese(pretrain, _, rng):
    for name in ["zh_tang_poems.txt", "zh_song_ci_sample.txt", "zh_classics_sample.txt"]:
        blocks = (pretrain / name).read_text(encoding="utf-8").split("\n\n")
        yield from ("\n\n".join(run) for run in runs(blocks[:400], rng, 12))
    sentences = (pretrain / "zh_sentences.txt").read_text(encoding="utf-8").splitlines()
    yield from ("".join(run) for run in runs(sentences, rng, 20))


class Text(HTMLParser):
    """The text of a page without scripts and styles, a line for each block."""

    BLOCKS = {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "pre", "dt", "dd", "td", "table", "ul", "title"}

    def __init__(self):
        super().__init__()
        self.out, self.skip = [], 0

    def handle_starttag(self, tag, _):
        self.skip += tag in ("script", "style")
        if tag in self.BLOCKS:
            self.out.append("\n")

    def handle_endtag(self, tag):
        self.skip -= tag in ("script", "style") and self.skip > 0
        if tag in self.BLOCKS:
            self.out.append("\n")

    def handle_data(self, text):
        if not self.skip:
            self.out.append(text)


def web(pretrain, _, rng):
    archive = gzip.decompress((pretrain / "web" / "sample.warc.gz").read_bytes())
    at = 0
    while (start := archive.find(b"WARC/1.", at)) >= 0:
        body = archive.index(b"\r\n\r\n", start) + 4
        headers = archive[start:body].decode("utf-8")
        length = int(re.search(r"(?i)content-length: *(\d+)", headers)[1])
        at = body + length
        if "WARC-Type: response" in headers:
            yield page(archive[body:at])


def page(response):
    head, _, body = response.partition(b"\r\n\r\n")
    named = re.search(rb"(?i)charset=[\"']?([\w-]+)", head) or re.search(rb"(?i)charset=[\"']?([\w-]+)", body[:2000])
    try:
        html = body.decode(named[1].decode() if named else "utf-8", errors="replace")
    except LookupError:
        html = body.decode("utf-8", errors="replace")
    reader = Text()
    reader.feed(html)
    return re.sub(r"\n\s*\n+", "\n\n", "".join(reader.out)).strip()


KINDS = {
    "books": books, "wrapped": wrapped, "brown": brown, "webtext": webtext, "speeches": speeches, "wikitext": wikitext,
    "web": web, "chinese": chinese,
}
