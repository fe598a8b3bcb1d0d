//! Small pages by hand, and pages that are broken on purpose.

use std::time::Instant;

use super::{Extract, Favor, Links, Page};
use crate::step::{Each, Notes, Verdict};
use cupola_records::Document;
use serde_json::Value;

const PROSE: &str = "The river had been rising for three days before anyone thought to move the boats, and nobody could \
    remember a spring like it.";

fn text(html: &str) -> String {
    Extract::default().page(html).text
}

/// The same inside of an article with a paragraph on each side, without these.
fn inside(html: &str) -> String {
    let page = format!("<body><article><p>{PROSE}</p>{html}<p>{PROSE}</p></article></body>");
    let text = text(&page);
    let inner = text.strip_prefix(PROSE).and_then(|rest| rest.strip_suffix(PROSE)).unwrap_or(&text);
    inner.trim_matches('\n').to_owned()
}

#[test]
fn blocks_become_markdown() {
    for (html, expected) in [
        ("<h2>A  <em>title</em> <a class=headerlink href=#a>¶</a></h2>", "## A title"),
        ("<p>one<br>two\n three</p>", "one\ntwo three"),
        ("<ul><li>a<li>b<ul><li>c</ul><li><p>d</p><p>e</p></ul>", "- a\n- b\n  - c\n- d\n\n  e"),
        ("<ol start=3><li>a</li><li>b</li></ol>", "3. a\n4. b"),
        ("<dl><dt>term<dd>meaning<dt>other<dd>one</dl>", "term\n: meaning\n\nother\n: one"),
        ("<blockquote><p>a</p><p>b</p></blockquote>", "> a\n>\n> b"),
        ("<p>a<ul><li>b<li>c</ul>d", "a\n\n- b\n- c\n\nd"),
        ("use <code>a &lt; b</code> or <b>not</b>", "use a < b or not"),
        ("x<sub>2</sub> &amp; caf&eacute;&nbsp;&shy;!", "x2 & café !"),
        ("<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>字", "漢字"),
    ] {
        assert_eq!(inside(html), expected, "{html}");
    }
}

#[test]
fn code_blocks_keep_their_white_space() {
    for (html, expected) in [
        ("<pre>\nfn a() {\n    b\n}\n</pre>", "```\nfn a() {\n    b\n}\n```"),
        ("<pre><code class='language-rust'>a  &lt;b&gt;\n\n\tc</code></pre>", "```rust\na  <b>\n\n\tc\n```"),
        (
            "<div class='highlight-python3 notranslate'><div class=highlight><pre><span>x</span> = 1</pre></div></div>",
            "```python3\nx = 1\n```",
        ),
        ("<pre>a ``` b</pre>", "````\na ``` b\n````"),
        ("<ul><li>see<pre>a\n b</pre></ul>", "- see\n\n  ```\n  a\n   b\n  ```"),
        ("<pre> \n </pre>", ""),
    ] {
        assert_eq!(inside(html), expected, "{html}");
    }
}

#[test]
fn tables_of_data_are_tables_and_others_are_blocks() {
    for (html, expected) in [
        ("<table><tr><th>a<th>b<tr><td>1<td>x|y</table>", "| a | b |\n| --- | --- |\n| 1 | x\\|y |"),
        (
            "<table><caption>C</caption><tr><td colspan=2>a<td>b<tr><td rowspan=2>1<td>2<td>3<tr><td>4<td>5</table>",
            "C\n\n| a |  | b |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n|  | 4 | 5 |",
        ),
        ("<table><tr><td><p>left</p><td><ul><li>right</ul></table>", "left\n\n- right"),
        ("<table role=presentation><tr><td>a<td>b<tr><td>c<td>d</table>", "a\n\nb\n\nc\n\nd"),
        ("<table><tr><td><img src=x><th>Note<tr><td><td>Do not.</table>", "Note\n\nDo not."),
    ] {
        assert_eq!(inside(html), expected, "{html}");
    }
    let without = Extract { tables: false, ..Extract::default() };
    let page = format!("<p>{PROSE}</p><table><tr><th>a<th>b<tr><td>1<td>2</table>");
    assert_eq!(without.page(&page).text, PROSE);
}

#[test]
fn formulas_are_tex() {
    let annotated = "<math display=block><semantics><mi>x</mi><annotation encoding='application/x-tex'>\
        x^2 &lt; 1</annotation></semantics></math>";
    for (html, expected) in [
        (annotated, "$$x^2 < 1$$"),
        ("a <math alttext='{\\displaystyle e=mc^{2}}'><mi>e</mi></math> b", "a $e=mc^{2}$ b"),
        ("<script type='math/tex; mode=display'>a<b</script>", "$$a<b$$"),
        ("<span class=MathJax_Preview>[x]</span><script type='math/tex'>\\alpha</script>", "$\\alpha$"),
        (
            "<span style='display: none'><math><mi>y</mi></math></span><img aria-hidden=true \
            class='mwe-math-fallback-image-inline' alt='{\\displaystyle y}'>",
            "$y$",
        ),
        ("<math><mi>x</mi><mo>=</mo><mn>1</mn></math>", "x=1"),
    ] {
        assert_eq!(inside(html), expected, "{html}");
    }
}

#[test]
fn marks_stand_beside_their_words() {
    let marks = Extract { marks: true, ..Extract::default() };
    for (html, expected) in [
        ("use <code>a &lt; b</code> or <kbd>x`y</kbd>", "use `a < b` or `` x`y ``"),
        ("a<em> b c </em>d <b>e</b>.<i> </i>f", "a *b c* d **e**. f"),
        ("<b>a<p>b</p></b>", "a\n\nb"),
        ("a <b><i>b</i></b>", "a ***b***"),
    ] {
        let page = format!("<p>{PROSE}</p><div>{html}</div><p>{PROSE}</p>");
        assert_eq!(marks.page(&page).text, format!("{PROSE}\n\n{expected}\n\n{PROSE}"), "{html}");
    }
}

#[test]
fn links_are_text_or_markdown() {
    let page = format!("<p>{PROSE} See<a href='b?x=1&amp;y'> the <b>book</b></a> or <a href=#n>here</a>.</p>");
    assert!(text(&page).ends_with("See the book or here."));
    let links = Extract { links: Links::Markdown, ..Extract::default() };
    assert!(links.page(&page).text.ends_with("See [the book](b?x=1&y) or here."));
}

/// A news page with what surrounds news.
fn news() -> String {
    format!(
        "<!DOCTYPE html><html lang=en-GB><head><title>Rising water | The Daily</title><meta name=author content='A. Writer'>\
        <meta property='article:published_time' content='2024-05-01T08:00:00Z'><style>p {{}}</style></head><body>\
        <div id=cookie-banner><p>We use cookies to give you the best experience. {PROSE}</p></div>\
        <div class=top><ul class=navbar><li><a href=/>Home</a><li><a href=/s>Sport</a></ul></div>\
        <div class=wrap><div class=story><h1>Rising water</h1><p class=hidden-x>{PROSE}</p><p>{PROSE}</p>\
        <div class='social share'><a href=#>Tweet this to all your friends</a></div><p>Short end.</p></div>\
        <div class=sidebar><h3>Most read</h3><ol><li><a href=/1>One thing that happened</a></ol><p>{PROSE}</p></div></div>\
        <div id=comments><p>I was there. {PROSE}</p></div><div style='display:none'>{PROSE}</div>\
        <footer>Copyright The Daily <a rel=license href='https://creativecommons.org/licenses/by/4.0/'>CC</a></footer>\
        <script>var a = '<p>no</p>';</script></body></html>"
    )
}

#[test]
fn the_frame_of_a_page_is_left_out() {
    let Page { text, fields } = Extract::default().page(&news());
    assert_eq!(text, format!("# Rising water\n\n{PROSE}\n\n{PROSE}\n\nShort end."));
    let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or(""))).collect();
    assert_eq!(
        fields,
        [
            ("title", "Rising water"),
            ("language", "en-GB"),
            ("date", "2024-05-01T08:00:00Z"),
            ("author", "A. Writer"),
            ("license", "https://creativecommons.org/licenses/by/4.0/"),
        ]
    );
    let comments = Extract { comments: true, ..Extract::default() };
    assert!(comments.page(&news()).text.contains("I was there."));
    let words = |favor| Extract { favor, ..Extract::default() }.page(&news()).text.split(' ').count();
    assert!(words(Favor::Precision) <= words(Favor::Balanced) && words(Favor::Balanced) <= words(Favor::Recall));
}

#[test]
fn a_page_without_paragraphs_keeps_its_list() {
    let items: String = (1..9).map(|i| format!("<li><a href={i}>Chapter {i}</a></li>")).collect();
    assert!(text(&format!("<nav><a href=/>Up</a></nav><h1>Contents</h1><ul>{items}</ul>")).contains("- Chapter 8"));
}

#[test]
fn chinese_and_japanese_pages_are_pages_too() {
    let chinese = "河水已经涨了三天，才有人想到要把船移开；村里没有人记得有过这样的春天，坐在桥边的老人们常常这样说。";
    let page = format!(
        "<html lang=zh-CN><body><div class=nav><a href=/>首页</a> <a href=/n>新闻</a></div><div><h1>涨水</h1><p>{chinese}</p>\
        <p>{chinese}</p></div><div><a href=1>上一篇：很长的一个标题</a> <a href=2>下一篇：另一个很长的标题</a></div></body></html>"
    );
    assert_eq!(text(&page), format!("# 涨水\n\n{chinese}\n\n{chinese}"));
}

#[test]
fn a_document_gets_text_and_fields_and_loses_its_page() {
    let step = Extract::default();
    let mut notes = Notes::default();
    let mut document = Document::new("1", "", "s");
    document.fields.insert("html".into(), Value::String(news()));
    document.fields.insert("language".into(), Value::String("en".into()));
    assert_eq!(step.apply(&mut document, &mut notes), Verdict::Keep);
    assert!(document.text.starts_with("# Rising water"));
    assert_eq!((document.field("html"), document.field("language")), (None, Some("en")));
    let done = document.clone();
    assert_eq!(step.apply(&mut document, &mut notes), Verdict::Keep);
    assert_eq!(document, done);
    let mut empty = Document::new("2", " ", "s");
    empty.fields.insert("html".into(), Value::String("<script>x</script>".into()));
    assert_eq!(step.apply(&mut empty, &mut notes), Verdict::Drop("extract_empty"));
    let mut wrong = Document::new("3", "", "s");
    wrong.fields.insert("html".into(), Value::from(3));
    assert!(matches!(step.apply(&mut wrong, &mut notes), Verdict::SetAside(_)));
}

/// Numbers that look random, always the same.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

#[test]
fn mutated_pages_are_read_without_panic_and_give_little_more_than_they_have() {
    const PIECES: [&str; 24] = [
        "<",
        ">",
        "</",
        "\"",
        "'",
        "<!--",
        "-->",
        "<p>",
        "<table>",
        "<td rowspan=65535 colspan=65535>",
        "</table>",
        "<li>",
        "<pre>",
        "<a href=x>",
        "</a>",
        "&",
        "&#x",
        "&notit;",
        "<svg>",
        "<title>",
        "<math>",
        "é漢",
        "<blockquote>",
        "<h1>",
    ];
    let rows = "<ul><li>x<li><pre>a\n b</pre><table><tr><th>a<th>b<tr><td>1<td>2</table></ul><math alttext=x>x</math>";
    let page = news() + rows;
    let mut random = Random(88172645463325252);
    for round in 0..2000 {
        let mut page: Vec<char> = page.chars().collect();
        for _ in 0..1 + random.below(12) {
            let (at, other) = (random.below(page.len()), random.below(page.len()));
            match random.below(4) {
                0 => drop(page.remove(at)),
                1 => drop(page.splice(at..at, PIECES[random.below(PIECES.len())].chars())),
                2 => drop(page.drain(at.min(other)..at.max(other)).take(random.below(200)).count()),
                _ => {
                    let copy: Vec<char> = page[at.min(other)..at.max(other)].to_vec();
                    page.splice(at..at, copy);
                }
            }
            page.truncate(20_000);
            page.push('x');
        }
        let html: String = page.into_iter().collect();
        let favor = [Favor::Precision, Favor::Balanced, Favor::Recall][round % 3];
        let links = [Links::Text, Links::Markdown][round % 2];
        let got =
            Extract { favor, links, comments: round % 5 == 0, tables: true, marks: round % 7 < 3 }.page(&html).text;
        assert!(got.len() <= 24 * html.len() + 100, "{} bytes of {}", got.len(), html.len());
    }
}

#[test]
fn hostile_pages_take_linear_time() {
    let repeated = |piece: &str| piece.repeat((1 << 20) / piece.len());
    let mut slow = Vec::new();
    for piece in [
        "<div>",
        "<p>",
        "</div>",
        "<",
        "<!--",
        "<a href=\"",
        "<a href='x",
        "<b><p>",
        "<table><td>",
        "<table><tr><td>a",
        "<ul><li>x",
        "<blockquote>a\n",
        "<pre>\n",
        "<math>",
        "<svg>",
        "<a href=x>a<div>",
        "<x-y>",
        "<x-y></z>",
        "&",
        "&#",
        "&amp",
        "<script>",
        "<title>",
        "<h1>a",
        "<dl><dt>a<dd>b",
        "<option>",
        "<td rowspan=9999>",
        "<tr><td colspan=99>",
        "<head>",
        "<body>",
        "<p>a</b>",
        "<code>",
        "<i class=nav>",
        "<div id=main>a",
        "<ruby><rt>",
        "<form><p>a",
        "<span><div>",
        "x ",
        "漢",
    ] {
        let start = Instant::now();
        let page = repeated(piece);
        let got = text(&page);
        assert!(got.len() <= 24 * page.len(), "{piece}: {} bytes", got.len());
        if start.elapsed().as_secs_f64() > 4.0 {
            slow.push((piece, start.elapsed()));
        }
    }
    assert!(slow.is_empty(), "{slow:?}");
}
