"""Makes quiz.jsonl: four answers to each question of the last tenth of instructions.json, one of them right.

The tuned models never see that tenth (see `split` in recipe.toml). Run it in this folder: python3 make_quiz.py
"""

import json
import random

with open("data/instructions.json", encoding="utf-8") as file:
    pairs = json.load(file)
held_out = pairs[int(0.9 * len(pairs)):]
draw = random.Random(1337)
with open("data/quiz.jsonl", "w", encoding="utf-8") as out:
    for pair in held_out:
        others = [p["output"] for p in held_out if p["output"] != pair["output"]]
        choices = draw.sample(others, 3)
        answer = draw.randrange(4)
        choices.insert(answer, pair["output"])
        question = pair["instruction"] + ("\n\n" + pair["input"] if pair["input"] else "")
        out.write(json.dumps({"question": question, "choices": choices, "answer": answer}, ensure_ascii=False) + "\n")
