"""Near duplicates by a peer's MinHash, shingles of 5 words, 14 bands of 8 rows: `peer_dedup.py PEER DOCUMENTS FOLDER` writes
the documents that stay into the folder and prints its speed and the most memory. The time to start is not counted."""

import json
import re
import resource
import shutil
import sys
import time
from pathlib import Path

from measured import report

WORDS, BANDS, ROWS = 5, 14, 8
# Where the bands' probability of a candidate rises most: (1 / 14) ** (1 / 8).
THRESHOLD = 0.72


def shingles(text):
    words = re.findall(r"\w+", text.lower())
    if len(words) < WORDS:
        return [" ".join(words)]
    return [" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)]


def write(lines, keep, folder):
    with open(folder / "kept.jsonl", "w", encoding="utf-8") as out:
        out.writelines(line for line, stays in zip(lines, keep) if stays)


def read(path):
    with open(path, encoding="utf-8") as documents:
        lines = documents.readlines()
    return lines, [json.loads(line)["text"] for line in lines]


def rensa(path, folder):
    from rensa import RMinHashDeduplicator

    def work():
        lines, texts = read(path)
        found = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=BANDS * ROWS, use_lsh=True, num_bands=BANDS, seed=1)
        write(lines, found.add_pairs((str(i), shingles(text)) for i, text in enumerate(texts)), folder)

    return work


def datasketch(path, folder):
    from datasketch import MinHash, MinHashLSH

    def work():
        lines, texts = read(path)
        index, keep = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS)), []
        signatures = MinHash.generator(([one.encode() for one in shingles(text)] for text in texts), num_perm=BANDS * ROWS, seed=1)
        for i, signature in enumerate(signatures):
            similar = any(signature.jaccard(other) >= THRESHOLD for other in map(kept.get, index.query(signature)))
            keep.append(not similar)
            if not similar:
                kept[i] = signature
                index.insert(i, signature)
        write(lines, keep, folder)

    kept = {}
    return work


def datatrove(path, folder):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.typeshelper import Languages
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    config = MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    work_in = folder / "work"
    load_word_tokenizer(Languages.english).word_tokenize("The tokenizer is made before time counts.")

    def run(*steps, tasks=1):
        logs = str(folder / "logs" / str(len(list(folder.glob("logs/*")))))
        LocalPipelineExecutor(pipeline=list(steps), tasks=tasks, workers=1, logging_dir=logs).run()

    def work():
        reader = lambda: JsonlReader(str(path.parent), glob_pattern=path.name)
        run(reader(), MinhashDedupSignature(str(work_in / "signatures"), config=config, language=Languages.english))
        run(MinhashDedupBuckets(str(work_in / "signatures"), str(work_in / "buckets"), config=config), tasks=BANDS)
        run(MinhashDedupCluster(str(work_in / "buckets"), str(work_in / "clusters"), config=config))
        out = JsonlWriter(str(folder), output_filename="kept.jsonl", compression=None)
        run(reader(), MinhashDedupFilter(str(work_in / "clusters")), out)

    return work


def main():
    name, path, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    work = {"rensa": rensa, "datasketch": datasketch, "datatrove": datatrove}[name](path, folder)
    out, sys.stdout = sys.stdout, sys.stderr
    start = time.process_time()
    work()
    seconds = time.process_time() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout = out
    report(path, seconds, most)


if __name__ == "__main__":
    main()
