"""datatrove's four filters on the documents of a file: prints megabytes in a second of processor time."""

import json
import sys
import time

from datatrove_filters import judge, make


def main():
    texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    filters, total = make(), 0.0
    for one in filters.values():
        judge(one, "The tokenizer is made with the first document. It is not to count.")
    for name, one in filters.items():
        start = time.process_time()
        for text in texts:
            judge(one, text)
        seconds = time.process_time() - start
        total += seconds
        print(json.dumps({"name": name, "value": megabytes / seconds}), flush=True)
    print(json.dumps({"name": "all", "value": megabytes / total}))


if __name__ == "__main__":
    main()
