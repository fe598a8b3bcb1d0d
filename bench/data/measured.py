"""Runs a program on a file of documents and prints megabytes of text in a second of its processor time, and the most memory."""

import json
import resource
import subprocess
import sys


def report(path, seconds, kilobytes):
    """The two figures, as JSON lines."""
    with open(path, encoding="utf-8") as documents:
        megabytes = sum(len(json.loads(line)["text"].encode()) for line in documents) / 1e6
    print(json.dumps({"name": "speed", "value": megabytes / seconds}))
    print(json.dumps({"name": "memory", "value": kilobytes / 1024}))


def main():
    done = subprocess.run(sys.argv[2:], stdout=sys.stderr)
    if done.returncode != 0:
        sys.exit(done.returncode)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report(sys.argv[1], used.ru_utime + used.ru_stime, used.ru_maxrss)


if __name__ == "__main__":
    main()
