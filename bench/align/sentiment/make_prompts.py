"""The first words of review sentences, for a model to go on from: prompts.jsonl out of sentence_polarity.tsv."""
import json
import random

random.seed(7)
with open("sentence_polarity.tsv", encoding="utf-8") as file:
    rows = [line.rstrip("\n").split("\t") for line in file][1:]
random.shuffle(rows)
seen = set()
with open("prompts.jsonl", "w", encoding="utf-8") as out:
    for text, _ in rows:
        begin = " ".join(text.split()[:4])
        if begin not in seen and len(begin) > 8:
            seen.add(begin)
            out.write(json.dumps({"prompt": begin}) + "\n")
        if len(seen) == 2000:
            break
