"""Writes the recipe's data: solved lines to pretrain on, conversations to tune on, problems with answers to check."""
import json
import random

random.seed(7)


def problem():
    a, b, c = random.randint(1, 12), random.randint(1, 12), random.randint(1, 5)
    text = random.choice([f"{a}+{b}", f"{a}-{b}", f"{a}+{b}+{c}", f"{a}+{b}-{c}"])
    return text + "=", str(eval(text))


def distinct(count, known):
    out = []
    while len(out) < count:
        text, answer = problem()
        if text not in known:
            known.add(text)
            out.append((text, answer))
    return out


known = set()
check, solved, asked = distinct(150, known), distinct(450, known), distinct(600, known)
lines = [text + answer for text, answer in solved] * 60
random.shuffle(lines)
with open("lines.txt", "w") as file:
    file.write("\n".join(lines) + "\n")
for name, items in [("solved", solved), ("asked", asked), ("check", check)]:
    with open(f"{name}.jsonl", "w") as file:
        for text, answer in items:
            record = {"prompt": text, "completion": answer} if name == "solved" else {"prompt": text, "answer": answer}
            file.write(json.dumps(record) + "\n")
