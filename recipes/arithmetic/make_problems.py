"""Writes the recipe's data: solved lines to pretrain on, a few conversations to tune on, problems to ask and to check."""
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
check, others = distinct(150, known), distinct(1200, known)
shown, asked = others[:300], others[300:900]
lines = [text + answer for text, answer in others] * 30
random.shuffle(lines)
with open("lines.txt", "w") as file:
    file.write("\n".join(lines) + "\n")
for name, items in [("shown", shown), ("asked", asked), ("check", check)]:
    with open(f"{name}.jsonl", "w") as file:
        for text, answer in items:
            record = {"prompt": text, "completion": answer} if name == "shown" else {"prompt": text, "answer": answer}
            file.write(json.dumps(record) + "\n")
