"""Makes stories.jsonl.gz and the questions beside it. Run it in this folder: python3 make_stories.py

A story tells seven facts about five people, "Ann mother Eve.", and then asks: "? Ann mother Eve." Half of the questions are of
facts that it told; the others are of grandmothers, grandfathers and workplaces, which are never told: a grandmother is the
mother of one's mother or father, a workplace the home of one's boss. The questions of the evaluation are about stories of
their own.
"""

import gzip
import json
import random

PEOPLE = "Ann Bob Cid Dot Eve Fay Gus Hal Ida Jon".split()
PLACES = "Cork Lima Oslo Rome".split()
TOLD = ["mother", "father", "boss"]
DERIVED = {
    "grandmother": [("mother", "mother"), ("father", "mother")],
    "grandfather": [("mother", "father"), ("father", "father")],
    "workplace": [("boss", "home")],
}
STORIES, ASKED, QUESTIONS = 12_000, 10, 200


def value(facts, relation, who):
    """Who or what it is, if there is exactly one."""
    if (relation, who) in facts:
        return facts[relation, who]
    chains = DERIVED.get(relation, [])
    found = {facts.get((second, facts.get((first, who)))) for first, second in chains} - {None}
    return found.pop() if len(found) == 1 else None


class Story:
    """Facts among five people, none of whom is above themselves."""

    def __init__(self, draw):
        people = draw.sample(PEOPLE, 5)
        self.facts = {(draw.choice(TOLD), below): above for below, above in zip(people, people[1:])}
        while len(self.facts) < 5:
            below = draw.randrange(4)
            self.facts.setdefault((draw.choice(TOLD), people[below]), draw.choice(people[below + 1 :]))
        for who in draw.sample(people, 2):
            self.facts["home", who] = draw.choice(PLACES)
        self.derived = [(r, who) for r in DERIVED for who in people if value(self.facts, r, who)]
        told = list(self.facts.items())
        draw.shuffle(told)
        self.text = "Told:" + "".join(f" {who} {relation} {what}." for (relation, who), what in told)

    def answer(self, question):
        return value(self.facts, *question)


def stories(draw):
    while True:
        story = Story(draw)
        if len(story.derived) >= 2:
            yield story


def asked(relation, who):
    return f" ? {who} {relation}"


def document(story, draw):
    chosen = [draw.choice(list(story.facts) if draw.random() < 0.5 else story.derived) for _ in range(ASKED)]
    return story.text + "".join(f"{asked(*question)} {story.answer(question)}." for question in chosen)


def items(draw, questions):
    for story, _ in zip(stories(draw), range(QUESTIONS)):
        question = draw.choice(questions(story))
        yield {"prompt": story.text + asked(*question), "answer": story.answer(question)}


def write(name, records):
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    with open(name, "wb") as out:
        out.write(gzip.compress(text, 9, mtime=0) if name.endswith(".gz") else text)


if __name__ == "__main__":
    draw = random.Random(1)
    write("stories.jsonl.gz", ({"text": document(story, draw)} for story, _ in zip(stories(draw), range(STORIES))))
    draw = random.Random(2)
    write("told.jsonl", items(draw, lambda story: list(story.facts)))
    write("derived.jsonl", items(draw, lambda story: story.derived))
