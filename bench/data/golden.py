"""Writes the golden file of the filters' tests: short documents with datatrove's verdicts and number of words.

    bench/data/golden.py FOLDER_OF_TEST_MATERIAL

The texts are in the public domain (novels, speeches, classical Chinese) or made up here; some are changed at random so that every
rule is met. Run it with the virtual environment that run.sh makes.
"""

import gzip
import json
import random
import sys
from pathlib import Path

from datatrove.utils.word_tokenizers import load_word_tokenizer
from datatrove_filters import judge, make
from documents import books, chinese, speeches, wrapped

OUT = Path(__file__).resolve().parents[2] / "crates/stages/data/tests/golden/filters.jsonl.gz"
DOCUMENTS = 400

# What stands between spaces and is divided in one way or another.
PIECES = """don't won't can't I'll they'd've it's John's JOHN'S 'tis o'clock y'all gonna cannot Mr. Mrs. Dr. e.g. i.e. U.S. U.S.A. a.m. 5pm
p.m. No. vs. St. Ph.D. B.C. 3.14 1,000 $5 US$20 20€ 50% 10km 5kg 3m² 100°C. -5 +3 5+ 1-2 3*4 2^10 well-known state-of-the-art
and/or w/o c/o A/B/C x=y a<b key:value a,b one,two word.Word end.Next Mid.sentence www.example.com http://example.com/a-b?c=d#e
me@example.com 192.168.0.1 8.8.8.8:80/x example.com:8080/path foo.bar Foo.bar ... .. wait... ...so …… ‘single’ “double” "quoted,"
(parens) [brackets] {braces} (e.g. (i.e., 'quoted' ''double'' `tick` --dash-- em—dash en–dash a--b a---b ~tilde~ #hash @at _under_
snake_case CamelCase *bold* & § ¶ • – — :-) ;-) :( <3 word:) :D xD (^_^) C++ C# .NET 50-50 mother-in-law's 'em rock'n'roll l'été
naïve Straße Привет, мир. мир-труд Γειά-σου 你好，世界。 你好,世界 漢字.かな ไทย 한국어-말 ½ ² © 5° ®name name™ a→b 👍 yes👍no 1st 2nd
1990s '90s 12:30 10/12/2020 2020-10-12 5'10" 6ft 20MB 1.5GB 3.x v1.2.3 [1] [23] [edit] <b>bold</b> $x_1$ \\alpha \\" ") =) =>
i'm Im im ive you're youre let's lets could've couldn't've ain't 'Cause 'cause ma'am lovin' nothin' Ol' goin H.G. J.K. JR. CO. Co. Inc.,
Inc.). (U.S.). "Yes!" "No?" "Oh...", what?! wow!!! (?) :/ http:// a@b a.b@c.d/e ftp://x.y.zz file.tar.gz /usr/local/bin ./run.sh""".split()


def changed(text, rng):
    """A text with something that a rule looks for."""
    lines = [line for line in text.split("\n") if line.strip()] or [text]
    pick = lambda: rng.choice(lines)
    ways = [
        lambda: "\n".join(lines + [pick()] * rng.randint(1, len(lines))),
        lambda: "\n\n".join([text, pick(), pick(), text]),
        lambda: " ".join([text, *[" ".join(pick().split()[:6])] * rng.randint(1, 12)]),
        lambda: "\n".join(rng.choice(["• ", "- ", "* "]) + line for line in lines),
        lambda: "\n".join(line.rstrip(".") + rng.choice(["...", "…", "", "!"]) for line in lines),
        lambda: " ".join(word + rng.choice(["", "", " #", " 7"]) for word in text.split(" ")),
        lambda: "\n".join(part + "." for part in text.split(". ")),
        lambda: text + "\n" + rng.choice(["Please enable JavaScript now.", "Lorem ipsum dolor sit amet.", "See if (x) { y; } here.",
                                          "We use cookies on this page.", "Read our Privacy Policy today."]),
        lambda: text.replace(". ", rng.choice(["[1]. ", ".[2] ", ".[citation needed] ", ".  ", ". \" ", ".) "])),
        lambda: " ".join(rng.choice(PIECES) for _ in range(rng.randint(20, 150))),
        lambda: " ".join(word if rng.random() < 0.7 else rng.choice(PIECES) for word in text.split()),
        lambda: "\n".join(line[: rng.randint(5, 60)] for line in lines) + rng.choice(["", "\n", "\r\n\u2028x"]),
        lambda: "".join(word[:2] for word in text.split(" ")),
        lambda: text.replace(" ", rng.choice(["\u00a0", "\t", "  ", "\u3000", " \n"])),
    ]
    return rng.choice(ways)()


def main():
    data, rng = Path(sys.argv[1]), random.Random(3)
    pools = [list(kind(data / "pretrain", data, rng)) for kind in (books, wrapped, speeches, chinese)]
    texts = ["", " ", "\n", ".", "one", "a b", "…", "#", "1 2 3\n4", " ".join(PIECES), "\n".join(piece + "." for piece in PIECES)]
    while len(texts) < DOCUMENTS:
        text = rng.choice(pools[rng.choice([0, 0, 0, 1, 2, 3])])
        start = rng.randint(0, max(0, len(text) - 400))
        text = text[start : start + rng.randint(100, 1500)]
        texts.append(changed(text, rng) if rng.random() < 0.65 else text)
    filters, tokenizer, lines = make(), load_word_tokenizer("en"), []
    for i, text in enumerate(texts):
        line = {"id": str(i), "text": text, "words": len(tokenizer.word_tokenize(text))}
        for name, one in filters.items():
            line[name], kept = judge(one, text)
            if name == "c4" and line[name] == "keep" and kept != text:
                line["c4_text"] = kept
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(gzip.compress("".join(lines).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
