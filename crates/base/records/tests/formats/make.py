"""Writes the files in this folder with other implementations of their formats; `pip install pyarrow reportlab python-docx ebooklib`.

The text is our own. Run it in this folder; some writers put the date into their files.
"""

import bz2
import gzip
import io
import lzma
import mailbox
import sqlite3
import tarfile
import zipfile
from email.message import EmailMessage

import docx
import pyarrow as pa
import pyarrow.feather
from ebooklib import epub
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen import canvas

ROWS = b"".join(b'{"text": "row %d"}\n' % i for i in range(1, 4))


def packings():
    open("rows.jsonl.bz2", "wb").write(bz2.compress(ROWS[:40]) + bz2.compress(ROWS[40:]))
    open("rows.jsonl.xz", "wb").write(lzma.compress(ROWS[:40]) + lzma.compress(ROWS[40:], check=lzma.CHECK_CRC32))


def archives():
    members = {
        "inner/rows.jsonl": ROWS,
        "inner/page.html": b"<html><body><p>page</p></body></html>",
        "inner/rows.jsonl.gz": gzip.compress(ROWS, mtime=0),
        "a/" + "long/" * 40 + "name.txt": "Ein Text mit Umlauten: äöü".encode(),
        "picture.png": b"\x89PNG\r\n\x1a\n",
        ".hidden.txt": b"hidden",
    }
    for method, name in [(zipfile.ZIP_DEFLATED, "archive.zip"), (zipfile.ZIP_BZIP2, "bzip2.zip")]:
        with zipfile.ZipFile(name, "w", method) as z:
            for member, content in members.items():
                z.writestr(zipfile.ZipInfo(member), content, method)
    for mode, form, name in [("w:gz", tarfile.GNU_FORMAT, "gnu.tar.gz"), ("w:xz", tarfile.PAX_FORMAT, "pax.tar.xz")]:
        with tarfile.open(name, mode, format=form) as t:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                t.addfile(info, io.BytesIO(content))
    with tarfile.open("evil.tar", "w") as t:
        for member, kind in [("../out.txt", None), ("/etc/out.txt", None), ("link.txt", tarfile.SYMTYPE), ("good.txt", None)]:
            info = tarfile.TarInfo(member)
            if kind:
                info.type, info.linkname = kind, "/etc/passwd"
                t.addfile(info)
            else:
                info.size = 4
                t.addfile(info, io.BytesIO(b"text"))
    with zipfile.ZipFile("evil.zip", "w") as z:
        for member in ["../out.txt", "/etc/out.txt", "C:\\out.txt", "good.txt"]:
            z.writestr(zipfile.ZipInfo(member), b"text")
        link = zipfile.ZipInfo("link.txt")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        z.writestr(link, "/etc/passwd")
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as nested:
            nested.writestr("a.txt", b"text")
        z.writestr(zipfile.ZipInfo("nested.zip"), inner.getvalue())


def tables():
    table = pa.table(
        {
            "text": ["one", None, "drei äöü"],
            "n": pa.array([1, 2, 3], pa.int32()),
            "x": [0.5, 1.5, None],
            "tags": [["a", "b"], [], None],
            "meta": [{"lang": "en"}, {"lang": "de"}, None],
            "day": pa.array([0, 1, 19000], pa.date32()),
            "at": pa.array([0, 1_500_000, None], pa.timestamp("us", tz="UTC")),
            "kind": pa.array(["p", "q", "p"]).dictionary_encode(),
            "price": pa.array(["1.50", "2.25", None]).cast(pa.decimal128(10, 2)),
        }
    )
    for codec in ["zstd", "lz4", "uncompressed"]:
        pyarrow.feather.write_feather(table, f"table.{codec}.feather", compression=codec)
    with pa.ipc.new_stream("table.arrows", table.schema) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
    base = sqlite3.connect("base.sqlite")
    base.execute("CREATE TABLE posts (id INTEGER PRIMARY KEY, body TEXT, score REAL)")
    base.execute("CREATE TABLE \"odd \"\"name\" (text TEXT, raw BLOB)")
    base.executemany("INSERT INTO posts VALUES (?, ?, ?)", [(1, "first", 0.5), (2, "second ü", None)])
    base.execute("INSERT INTO \"odd \"\"name\" VALUES ('t', x'FF00')")
    base.commit()


def mail():
    box = mailbox.mbox("box.mbox")
    one = EmailMessage()
    one["From"], one["Subject"] = "Jörg <joerg@example.org>", "Grüße aus Köln"
    one["Date"], one["Message-ID"] = "Mon, 05 Jun 2023 10:00:00 +0200", "<1@example.org>"
    one.set_content("Schöne Grüße\n\nFrom here on it is quoted.\n", charset="iso-8859-1", cte="quoted-printable")
    one.add_alternative("<p>Schöne Grüße</p>", subtype="html")
    two = EmailMessage()
    two["From"], two["Subject"] = "b@example.org", "only a page"
    two.set_content("<p>page</p>", subtype="html")
    three = EmailMessage()
    three["From"], three["Subject"] = "c@example.org", "日本語"
    three.set_content("こんにちは\n", charset="iso-2022-jp")
    for message in [one, two, three]:
        box.add(message)
    box.flush()
    open("one.eml", "wb").write(one.as_bytes())


def documents():
    d = docx.Document()
    d.core_properties.title, d.core_properties.author = "The title", "A. Author"
    d.add_heading("First heading", 1)
    d.add_paragraph("A paragraph with äöü & <signs>.")
    d.add_paragraph("item one", style="List Bullet")
    d.add_paragraph("item two", style="List Bullet")
    d.add_heading("Second", 2)
    t = d.add_table(rows=2, cols=2)
    for i, text in enumerate(["a", "b", "1", "2"]):
        t.cell(i // 2, i % 2).text = text
    d.save("letter.docx")

    b = epub.EpubBook()
    b.set_title("The book & more"), b.set_language("en"), b.add_author("A. Author")
    chapters = []
    for i, name in enumerate(["z first.xhtml", "a second.xhtml"]):
        chapter = epub.EpubHtml(title=name, file_name=f"text/{name}")
        chapter.content = f"<html><body><h1>Chapter {i + 1}</h1><p>text {i + 1}</p></body></html>"
        b.add_item(chapter), chapters.append(chapter)
    b.spine = chapters
    b.add_item(epub.EpubNcx())
    epub.write_epub("book.epub", b)


LEFT = [
    "The left column is read before the",
    "right one, although both were drawn",
    "line by line across the page, as some",
    "programs do it. It ends with a divi-",
    "ded word, which becomes one again.",
]
RIGHT = [
    "The right column comes after it and",
    "has as many lines as the left one so",
    "that they stand beside each other on",
    "the same base lines, which is what",
    "makes it hard to tell columns apart.",
]


def pdf():
    c = canvas.Canvas("columns.pdf", pagesize=A4, invariant=1)
    c.setTitle("Two columns")
    c.setFont("Helvetica-Bold", 18)
    c.drawString(60, 780, "A heading across both of the columns")
    c.setFont("Times-Roman", 11)
    for i, (left, right) in enumerate(zip(LEFT, RIGHT)):
        c.drawString(60, 740 - 13 * i, left)
        c.drawString(310, 740 - 13 * i, right)
    c.showPage()
    c.setFont("Times-Roman", 11)
    c.drawString(60, 780, "The second page has a paragraph, and it fills its line nearly to the end.")
    c.drawString(60, 767, "It goes on here.")
    c.save()


packings(), archives(), tables(), mail(), documents(), pdf()
