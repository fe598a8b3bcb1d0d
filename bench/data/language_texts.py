"""Gathers the texts that `examples/train_language.rs` of the data crate makes its table from.

    language_texts.py LINGUA CLDR DERIVED OUT

LINGUA is a folder with lingua-rs' language model crates (lingua-NAME-language-model-1.3.0, whose test sentences are taken),
CLDR and DERIVED are the unpacked packages cldr-annotations-full and cldr-annotations-derived-full.
"""

import json
import re
import sys
import unicodedata
from pathlib import Path

LINGUA = dict(
    afrikaans="af", albanian="sq", arabic="ar", azerbaijani="az", basque="eu", belarusian="be", bengali="bn", bokmal="nb",
    bosnian="bs", bulgarian="bg", catalan="ca", croatian="hr", czech="cs", danish="da", dutch="nl", english="en",
    esperanto="eo", estonian="et", finnish="fi", french="fr", ganda="lg", german="de", hebrew="he", hindi="hi",
    hungarian="hu", icelandic="is", indonesian="id", irish="ga", italian="it", kazakh="kk", latin="la", latvian="lv",
    lithuanian="lt", macedonian="mk", malay="ms", maori="mi", marathi="mr", mongolian="mn", nynorsk="nn", persian="fa",
    polish="pl", portuguese="pt", romanian="ro", russian="ru", serbian="sr", shona="sn", slovak="sk", slovene="sl",
    somali="so", sotho="st", spanish="es", swahili="sw", swedish="sv", tagalog="tl", tsonga="ts", tswana="tn",
    turkish="tr", ukrainian="uk", urdu="ur", vietnamese="vi", welsh="cy", xhosa="xh", yoruba="yo", zulu="zu",
)
CLDR = {code: code for code in "ha pcm jv am ti uz ky tk ne as ps sd ug gl mt ig lb gd fo qu rw yi tg wo".split()}
CLDR |= {"fil": "tl", "pa-Arab": "pnb"}


def keywords(*files):
    """Each keyword and name of a symbol once, without what follows a colon."""
    seen = {}
    for file in files:
        if not file.exists():
            continue
        content = json.loads(file.read_text())
        content = content.get("annotations") or content["annotationsDerived"]
        for entry in content["annotations"].values():
            for text in entry.get("default", []) + entry.get("tts", []):
                text = re.split(r"[:,]", text)[0].strip()
                if text and "↑" not in text:
                    seen[text] = True
    return "".join(f"{text}\n" for text in seen)


def main():
    lingua, cldr, derived, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    texts = {}
    for name, code in LINGUA.items():
        texts[code] = (lingua / f"lingua-{name}-language-model-1.3.0/testdata/sentences.txt").read_text()
    for folder, code in CLDR.items():
        words = keywords(
            cldr / "annotations" / folder / "annotations.json",
            derived / "annotationsDerived" / folder / "annotations.json",
        )
        if code == "pcm":
            # Running text is mostly written without the marks of tone.
            words = "".join(c for c in unicodedata.normalize("NFD", words) if unicodedata.category(c) != "Mn")
        texts[code] = texts.get(code, "") + words
    for code, text in texts.items():
        if text:
            (out / f"{code}.txt").write_text(text)


if __name__ == "__main__":
    main()
