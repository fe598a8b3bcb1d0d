"""Texts to tokenize: the books and other texts of the test material, and as many more as are asked for, by variation."""

import gzip
import json

# Bytes of a document, about.
DOCUMENT = 20_000
# Consonants that change places, another pair in each round, so that the words of each round are new but look like words.
PAIRS = ["td", "sr", "nl", "mb", "pk", "fg", "hv", "cw", "jz", "qx", "tn", "sl", "dr", "kg"]


def base(data):
    """Documents of the books, the speeches, tinyshakespeare and the Chinese poems."""
    folder = data / "pretrain"
    files = [*sorted((folder / "books").glob("*.txt")), folder / "tinyshakespeare.txt", *sorted(folder.glob("zh_*.txt"))]
    for file in files:
        yield from cut(file.read_text(encoding="utf-8"))
    with gzip.open(folder / "us_speeches.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield from cut(json.loads(line)["text"])


def cut(text):
    """The text in documents, cut at blank lines."""
    document = ""
    for paragraph in text.split("\n\n"):
        document += paragraph + "\n\n"
        if len(document) >= DOCUMENT:
            yield document
            document = ""
    if document:
        yield document


def write_texts(data, path, least=0):
    """Writes the documents, in rounds until there are `least` bytes; from the second round on varied. Gives the bytes."""
    documents, bytes_, rounds = list(base(data)), 0, 0
    with open(path, "w", encoding="utf-8") as out:
        while rounds == 0 or bytes_ < least:
            pair = PAIRS[rounds % len(PAIRS)]
            swap = str.maketrans(pair + pair.upper(), pair[::-1] + pair[::-1].upper()) if rounds else {}
            for document in documents:
                varied = document.translate(swap)
                out.write(json.dumps({"text": varied}, ensure_ascii=False) + "\n")
                bytes_ += len(varied.encode())
                if rounds and bytes_ >= least:
                    break
            rounds += 1
    return bytes_
