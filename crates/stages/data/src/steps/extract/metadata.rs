//! What a page states of itself: title, language, date, author, licence.

use serde_json::{Map, Value};

use super::entities::decode;
use super::tags::Tag;
use super::tree::{Node, Tree};

/// Longer values are no statements.
const LONGEST: usize = 500;
/// How many structured descriptions (JSON-LD) are looked at, and how large one may be, in bytes.
const MAX_DESCRIPTIONS: usize = 8;
const MAX_DESCRIPTION: usize = 256 << 10;

/// Names in `meta`, in lower case, the most trusted first.
const TITLE: &[&str] = &["citation_title", "dc.title", "dcterms.title", "og:title", "twitter:title"];
const DATE: &[&str] = &[
    "article:published_time",
    "citation_publication_date",
    "citation_date",
    "dc.date.issued",
    "dcterms.issued",
    "dc.date",
    "dcterms.date",
    "dcterms.created",
    "datepublished",
    "parsely-pub-date",
    "sailthru.date",
    "pubdate",
    "publishdate",
    "date",
    "article:modified_time",
    "datemodified",
];
const AUTHOR: &[&str] =
    &["citation_author", "dc.creator", "dcterms.creator", "author", "article:author", "parsely-author", "byl"];
const LICENSE: &[&str] = &["dcterms.license", "dc.rights.license", "license", "dc.rights", "dcterms.rights", "rights"];
const LANGUAGE: &[&str] = &["content-language", "dc.language", "dcterms.language", "language", "og:locale"];

/// The fields that are found, by what a document calls them.
pub fn read(tree: &Tree<'_>) -> Map<String, Value> {
    let mut page = Page::default();
    page.look_at(tree);
    let of_root = |name| tree.attribute(&tree.nodes[0], name).map(|value| decode(value.trim(), true));
    let language = of_root("lang").or_else(|| of_root("xml:lang")).filter(|l| !l.is_empty());
    let language = language.or_else(|| page.meta(LANGUAGE)).filter(|l| l.len() <= 35 && !l.contains(' '));
    let title = page.title();
    let date = page.meta(DATE).or(page.described.date.take()).or(page.time.take()).filter(|date| is_date(date));
    let author = page.meta(AUTHOR).filter(|author| !author.contains("://"));
    let author = author.or(page.described.author.take()).or(page.author.take());
    let license = page.license.take().or_else(|| page.meta(LICENSE)).or(page.described.license.take());
    let stated = [("title", title), ("language", language), ("date", date), ("author", author), ("license", license)];
    let mut fields = Map::new();
    for (name, value) in stated {
        if let Some(value) = value.map(tidy).filter(|value| !value.is_empty() && value.len() <= LONGEST) {
            fields.insert(name.to_owned(), Value::String(value));
        }
    }
    fields
}

fn tidy(value: String) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Begins with a year.
fn is_date(date: &str) -> bool {
    let digits = |n| date.len() >= n && date.as_bytes()[..n].iter().all(u8::is_ascii_digit);
    date.len() <= 64 && digits(4) && date.as_bytes().get(4).is_none_or(|b| !b.is_ascii_digit() || digits(8))
}

/// JSON-LD.
fn is_description(tree: &Tree<'_>, script: &Node) -> bool {
    tree.attribute(script, "type").is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/ld+json"))
}

#[derive(Default)]
struct Page {
    /// Names in lower case and contents.
    metas: Vec<(String, String)>,
    document_title: Option<String>,
    headline: Option<String>,
    time: Option<String>,
    author: Option<String>,
    license: Option<String>,
    described: Described,
}

/// What JSON-LD says.
#[derive(Default)]
struct Described {
    title: Option<String>,
    date: Option<String>,
    author: Option<String>,
    license: Option<String>,
}

impl Page {
    fn look_at(&mut self, tree: &Tree<'_>) {
        let mut descriptions = 0;
        for (i, node) in tree.nodes.iter().enumerate() {
            match node.tag {
                Tag::Meta => self.look_at_meta(tree, node),
                Tag::Title if self.document_title.is_none() => self.document_title = Some(text(tree, i)),
                Tag::H1 if self.headline.is_none() => self.headline = Some(text(tree, i)).filter(|h| !h.is_empty()),
                Tag::Time if self.time.is_none() => {
                    self.time = tree.attribute(node, "datetime").map(|date| date.trim().to_owned());
                }
                Tag::A | Tag::Link => self.look_at_link(tree, i),
                Tag::Script if descriptions < MAX_DESCRIPTIONS && is_description(tree, node) => {
                    descriptions += 1;
                    let json = tree.inside(i).next().map_or("", |text| tree.raw(&tree.nodes[text]));
                    self.described.look_at(json);
                }
                _ => {}
            }
        }
    }

    fn look_at_meta(&mut self, tree: &Tree<'_>, node: &Node) {
        let (mut name, mut content) = (None, None);
        for (attribute, value) in tree.attributes(node) {
            if ["name", "property", "itemprop", "http-equiv"].iter().any(|n| attribute.eq_ignore_ascii_case(n)) {
                name = name.or(Some(value));
            } else if attribute.eq_ignore_ascii_case("content") {
                content = Some(value);
            }
        }
        if let (Some(name), Some(content)) = (name, content) {
            // Only what is asked for later is kept.
            let name = name.trim().to_ascii_lowercase();
            let wanted = [TITLE, DATE, AUTHOR, LICENSE, LANGUAGE].iter().any(|names| names.contains(&name.as_str()));
            if wanted && content.len() <= LONGEST && !self.metas.iter().any(|(n, _)| *n == name) {
                self.metas.push((name, decode(content.trim(), true)));
            }
        }
    }

    fn look_at_link(&mut self, tree: &Tree<'_>, i: usize) {
        let (mut rel, mut href) = ("", "");
        for (attribute, value) in tree.attributes(&tree.nodes[i]) {
            match attribute.len() {
                3 if attribute.eq_ignore_ascii_case("rel") => rel = value,
                4 if attribute.eq_ignore_ascii_case("href") => href = value,
                _ => {}
            }
        }
        let is = |kind: &str| rel.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case(kind));
        let named = self.license.is_none() && (is("license") || href.contains("creativecommons.org/licenses/"));
        if named && !href.is_empty() {
            self.license = Some(decode(href.trim(), true));
        } else if self.author.is_none() && tree.nodes[i].tag == Tag::A && is("author") {
            self.author = Some(text(tree, i)).filter(|author| !author.is_empty());
        }
    }

    fn meta(&self, names: &[&str]) -> Option<String> {
        let content = |name: &&str| self.metas.iter().find(|(n, content)| n == name && !content.is_empty());
        names.iter().find_map(content).map(|(_, content)| content.clone())
    }

    /// The first heading where the document's title is that and a site's name, else what is stated.
    fn title(&self) -> Option<String> {
        let title = self.document_title.as_deref().unwrap_or_default();
        let headline = self.headline.as_deref().filter(|h| h.len() > 3 && title.len() > h.len());
        let stated = headline.filter(|h| title.starts_with(h) || title.ends_with(h)).map(str::to_owned);
        stated
            .or_else(|| self.meta(TITLE))
            .or_else(|| self.described.title.clone())
            .or_else(|| self.document_title.clone().filter(|title| !title.is_empty()))
            .or_else(|| self.headline.clone())
    }
}

/// The texts inside an element.
fn text(tree: &Tree<'_>, i: usize) -> String {
    let mut raw = String::new();
    for node in tree.inside(i).map(|i| &tree.nodes[i]).filter(|node| node.tag == Tag::Text) {
        raw.push_str(tree.raw(node));
        if raw.len() > 4 * LONGEST {
            break;
        }
    }
    tidy(decode(&raw, false)).trim_end_matches(['¶', '§', '#']).trim_end().to_owned()
}

impl Described {
    fn look_at(&mut self, json: &str) {
        if json.len() <= MAX_DESCRIPTION
            && let Ok(value) = serde_json::from_str::<Value>(json.trim())
        {
            self.look_into(&value, 0);
        }
    }

    /// Objects stand in lists and in graphs.
    fn look_into(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Array(values) if depth < 4 => values.iter().for_each(|value| self.look_into(value, depth + 1)),
            Value::Object(object) => {
                let text = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
                self.title = self.title.take().or_else(|| text("headline"));
                self.date = self.date.take().or_else(|| text("datePublished"));
                self.author = self.author.take().or_else(|| object.get("author").and_then(name_of));
                self.license = self.license.take().or_else(|| text("license"));
                if let Some(graph) = object.get("@graph").filter(|_| depth < 4) {
                    self.look_into(graph, depth + 1);
                }
            }
            _ => {}
        }
    }
}

fn name_of(author: &Value) -> Option<String> {
    match author {
        Value::String(name) => Some(name.clone()),
        Value::Object(person) => person.get("name")?.as_str().map(str::to_owned),
        Value::Array(all) => name_of(all.iter().find(|one| one.is_object() || one.is_string())?),
        _ => None,
    }
}
