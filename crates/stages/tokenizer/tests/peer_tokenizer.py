"""Loads a saved tokenizer with transformers and compares ids, chats and masks with what cupola computed.

python peer_tokenizer.py TOKENIZER_DIR EXPECTED.json
"""

import json
import sys

from transformers import AutoTokenizer


def main(folder, expected_file):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with open(expected_file, encoding="utf-8") as file:
        expected = json.load(file)
    check("vocab_size", len(tokenizer), expected["vocab_size"])
    for role in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"):
        if role in expected:
            check(role, getattr(tokenizer, f"{role}_token_id"), expected[role])
    check_texts(tokenizer, expected)
    for case in expected.get("sequences", []):
        encoded = tokenizer(case["text"], case["pair"])
        what = f"{case['text']!r} and {case['pair']!r}"
        check(f"sequence {what}", encoded["input_ids"], case["ids"])
        if "token_type_ids" in encoded:
            check(f"types of {what}", encoded["token_type_ids"], case["type_ids"])
    if "chat" in expected:
        check_chat(tokenizer, expected)
    print(f"{type(tokenizer).__name__} agrees")


def check_texts(tokenizer, expected):
    for text, plain, special in zip(expected["texts"], expected["plain"], expected["special"], strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        check(f"special ids of {text!r}", ids, special)
        if "chat" in expected:
            split = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            check(f"plain ids of {text!r}", split, plain)
            check(f"decoding of {text!r}", tokenizer.decode(plain), text)


def check_chat(tokenizer, expected):
    chat = expected["chat"]
    check("chat", tokenizer.apply_chat_template(chat, tokenize=False), expected["rendered"])
    prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    check("prompt", prompt, expected["prompt"])
    encoded = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    check("chat ids", encoded["input_ids"], expected["chat_ids"])
    check("mask", [bool(m) for m in encoded["assistant_masks"]], expected["chat_mask"])


def check(what, theirs, ours):
    if theirs != ours:
        sys.exit(f"{what}: transformers has {theirs!r}, cupola has {ours!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
