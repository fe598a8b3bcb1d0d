"""Loads a model that cupola trained into transformers and compares it with the running server.

    python peer_logits.py MODEL_DIR http://127.0.0.1:8000/v1

Prints transformers' own greedy continuation of a prompt beside the server's; they must be equal.
"""

import json
import sys
import urllib.request

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model_dir, base = sys.argv[1], sys.argv[2]
tokenizer = AutoTokenizer.from_pretrained(model_dir)
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
print(type(model).__name__, sum(p.numel() for p in model.parameters()), "parameters")
for prompt in ["ROMEO:", "To be, or not to be", "First Citizen:\nBefore we proceed"]:
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    theirs = model.generate(ids, max_new_tokens=48, do_sample=False)
    theirs = tokenizer.decode(theirs[0, ids.shape[1]:], skip_special_tokens=True)
    body = json.dumps({"prompt": prompt, "max_tokens": 48, "temperature": 0}).encode()
    request = urllib.request.Request(f"{base}/completions", body, {"content-type": "application/json"})
    ours = json.load(urllib.request.urlopen(request))["choices"][0]["text"]
    print(f"{prompt!r}: {'equal' if ours == theirs else 'DIFFERENT'}\n  {ours!r}")
    assert ours == theirs, theirs
