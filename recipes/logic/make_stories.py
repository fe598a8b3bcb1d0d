"""Makes stories.jsonl.gz and the questions beside it. Run it in this folder: python3 make_stories.py

A story tells facts and then asks. "Cid's boss is Eve" sets a value, "Cid's boss is maybe Hal" replaces it three times in ten,
"Cid's boss is surely Hal" eight times in ten. Grandmothers, grandfathers and workplaces are asked for and never told. The
answers of a story all hold in one world that is drawn as the hedges say. Training asks for one relation, or for two in a row,
but never for the pairs in HELD_OUT; three and four in a row are asked for in questions only.
"""

import gzip
import itertools
import json
import random

PEOPLE = "Ann Bob Cid Dot Eve Fay Gus Hal Ida Jon Kim Lou".split()
PLACES = "Cork Lima Oslo Rome".split()
TOLD = ["mother", "father", "boss"]
DERIVED = {
    "grandmother": [("mother", "mother"), ("father", "mother")],
    "grandfather": [("mother", "father"), ("father", "father")],
    "workplace": [("boss", "home")],
}
TERMS = [*TOLD, "home", *DERIVED]
HEDGES = {"maybe": 0.3, "surely": 0.8}
HELD_OUT = {
    ("father", "boss"), ("boss", "mother"), ("mother", "home"), ("grandmother", "boss"), ("boss", "grandfather"),
    ("grandfather", "workplace"), ("mother", "workplace"), ("grandmother", "home"),
}
STORIES, QUESTIONS = 12_000, 200


def value(world, relation, who):
    """Who or what it is, if that is certain in a world."""
    if (relation, who) in world:
        return world[relation, who]
    found = set()
    for first, second in DERIVED.get(relation, []):
        if (middle := world.get((first, who))) and (last := world.get((second, middle))):
            found.add(last)
    return found.pop() if len(found) == 1 else None


def walk(world, who, relations):
    for relation in relations:
        who = who and value(world, relation, who)
    return who


class Story:
    """Facts among five people, none of whom is above themselves."""

    def __init__(self, draw):
        people = draw.sample(PEOPLE, 5)
        facts = {}
        for below, above in zip(people, people[1:]):
            facts[draw.choice(TOLD), below] = above
        for who in draw.sample(people[:4], 2):
            facts.setdefault((draw.choice(TOLD), who), draw.choice(people[people.index(who) + 1:]))
        for who in draw.sample(people, 2):
            facts["home", who] = draw.choice(PLACES)
        told = list(facts.items())
        draw.shuffle(told)
        lines = [f"{who}'s {relation} is {what}." for (relation, who), what in told]
        self.people, self.likely, self.hedged = people, dict(facts), None
        self.worlds = [(1.0, facts)]
        if draw.random() < 0.4:
            self.correct(draw, told, lines)
        self.text = "Told: " + " ".join(lines)

    def correct(self, draw, told, lines):
        """Says one of the facts again, otherwise and with a hedge."""
        (relation, who), old = draw.choice(told)
        above = PLACES if relation == "home" else self.people[self.people.index(who) + 1:]
        others = [other for other in above if other != old]
        if not others:
            return
        hedge, other = draw.choice(list(HEDGES)), draw.choice(others)
        lines.append(f"{who}'s {relation} is {hedge} {other}.")
        changed = {**self.likely, (relation, who): other}
        share = HEDGES[hedge]
        self.worlds = [(1 - share, self.likely), (share, changed)]
        self.likely = changed if share > 0.5 else self.likely
        self.hedged = relation, who

    def askable(self, lengths, wanted):
        """All questions that have an answer in every world."""
        for length in lengths:
            for relations in itertools.product(TERMS, repeat=length):
                if not wanted(relations):
                    continue
                for who in self.people:
                    answers = [walk(world, who, relations) for _, world in self.worlds]
                    if all(answers):
                        yield who, relations, len(set(answers)) > 1

    def world(self, draw):
        return draw.choices([world for _, world in self.worlds], [share for share, _ in self.worlds])[0]


def question(who, relations):
    return f" Asked: {who}{''.join(chr(39) + 's ' + relation for relation in relations)} is"


def seen(relations):
    return relations not in HELD_OUT


def is_hard(relations):
    return len(relations) > 1 or relations[0] in DERIVED


def document(draw):
    """A story with the answers to five questions: two of told relations, three of derived ones or of two in a row."""
    while True:
        story = Story(draw)
        world = story.world(draw)
        asked = list(story.askable([1, 2], seen))
        hard = [q for q in asked if is_hard(q[1])]
        easy = [q for q in asked if not is_hard(q[1])]
        if len(hard) < 3:
            continue
        chosen = draw.sample(easy, 2) + draw.sample(hard, 3)
        draw.shuffle(chosen)
        return story.text + "".join(f"{question(who, r)} {walk(world, who, r)}." for who, r, _ in chosen)


def items(draw, lengths, wanted, hedged=False):
    found = []
    while len(found) < QUESTIONS:
        story = Story(draw)
        asked = [q for q in story.askable(lengths, wanted) if q[2] == hedged and (hedged or not story.hedged)]
        if asked:
            who, relations, _ = draw.choice(asked)
            found.append({"prompt": story.text + question(who, relations), "answer": walk(story.likely, who, relations)})
    return found


def write(name, records):
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    with open(name, "wb") as out:
        out.write(gzip.compress(text, 9, mtime=0) if name.endswith(".gz") else text)


if __name__ == "__main__":
    write("stories.jsonl.gz", ({"text": document(draw)} for draw in [random.Random(1)] for _ in range(STORIES)))
    draw = random.Random(2)
    write("told.jsonl", items(draw, [1], lambda r: not is_hard(r)))
    write("seen.jsonl", items(draw, [1, 2], lambda r: seen(r) and is_hard(r)))
    write("unseen.jsonl", items(draw, [2], lambda r: r in HELD_OUT))
    write("three.jsonl", items(draw, [3], lambda r: True))
    write("four.jsonl", items(draw, [4], lambda r: True))
    write("hedged.jsonl", items(draw, [1, 2], seen, hedged=True))
