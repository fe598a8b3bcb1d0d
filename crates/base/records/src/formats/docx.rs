//! Word documents (DOCX, ISO 29500): headings, paragraphs, lists and tables as Markdown.

use std::collections::HashMap;
use std::path::Path;

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value};

use super::xml::{Met, attribute, walk};
use super::zip::{Zip, is_zip};
use super::{Format, Stream};
use crate::Record;
use crate::content::Content;

/// The largest part of a document, unpacked, bytes: 256 MiB.
const MAX_PART_BYTES: usize = 256 << 20;

pub(crate) const FORMAT: Format = Format {
    name: "a Word document (DOCX)",
    extensions: &["docx"],
    searched: true,
    fits: is_zip,
    is_surely: |content| is_zip(content) && content.head.windows(5).any(|w| w == b"word/"),
    open: |content| Ok(Box::new(std::iter::once_with(move || document(content))) as Stream),
};

fn document(content: Content) -> Result<Record> {
    let path = content.path.clone();
    let mut zip = Zip::open(content)?;
    let body = part(&mut zip, "word/document.xml")?
        .ok_or_else(|| broken(&path, "there is no word/document.xml: it is no Word document"))?;
    let styles = match part(&mut zip, "word/styles.xml")? {
        Some(xml) => paragraph_styles(&xml).map_err(|what| broken(&path, &format!("word/styles.xml: {what}")))?,
        None => HashMap::new(),
    };
    let mut markdown = Markdown { styles, ..Markdown::default() };
    walk(&body, |met| markdown.met(met)).map_err(|what| broken(&path, &format!("word/document.xml: {what}")))?;
    let mut value = Map::new();
    value.insert("text".to_owned(), markdown.finish().into());
    if let Some(xml) = part(&mut zip, "docProps/core.xml")? {
        // A broken description does not lose the document.
        let _ = walk_properties(&xml, &mut value);
    }
    Ok(Record { source: path, line: 1, value: Value::Object(value) })
}

fn part(zip: &mut Zip, name: &str) -> Result<Option<String>> {
    Ok(zip.read(name, MAX_PART_BYTES)?.map(|bytes| crate::encoding::decode_page(&bytes, None, None).text))
}

fn broken(path: &Path, what: &str) -> Error {
    Error::failed(format!("{}: broken document: {what}", path.display()))
        .with_hint("open it in a word processor and save it again")
}

fn walk_properties(xml: &str, value: &mut Map<String, Value>) -> Result<(), String> {
    let (mut within, mut text) = (None, String::new());
    walk(xml, |met| match met {
        Met::Start(name, _) => {
            within = ["title", "creator"].into_iter().find(|known| *known == name);
            text.clear();
        }
        Met::Text(piece) => text.push_str(piece),
        Met::End(_) => {
            if let Some(name) = within.take().filter(|_| !text.trim().is_empty()) {
                value.insert(if name == "creator" { "author" } else { name }.to_owned(), text.trim().into());
            }
        }
    })
}

/// What a paragraph's style says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// A heading of a level, 1 to 6.
    Heading(usize),
    /// An item of a list.
    Item,
}

/// Styles by their ids: an id is in the writer's language, a built-in style's name is not.
fn paragraph_styles(xml: &str) -> Result<HashMap<String, Style>, String> {
    let (mut styles, mut id) = (HashMap::new(), String::new());
    walk(xml, |met| {
        if let Met::Start(name, start) = met {
            match name {
                "style" => id = attribute(start, "styleId").unwrap_or_default(),
                "name" => {
                    if let Some(level) = attribute(start, "val").as_deref().and_then(heading_level) {
                        styles.insert(id.clone(), Style::Heading(level));
                    }
                }
                "outlineLvl" => {
                    if let Some(level) = outline_level(attribute(start, "val")) {
                        styles.entry(id.clone()).or_insert(Style::Heading(level));
                    }
                }
                // Numbered headings are headings.
                "numPr" => drop(styles.entry(id.clone()).or_insert(Style::Item)),
                _ => {}
            }
        }
    })?;
    Ok(styles)
}

/// `0` to `8` as a level from 1 to 6; 9 is body text.
fn outline_level(value: Option<String>) -> Option<usize> {
    value?.parse::<usize>().ok().filter(|level| *level < 9).map(|level| (level + 1).min(6))
}

fn heading_level(style: &str) -> Option<usize> {
    let style = style.to_ascii_lowercase();
    if style == "title" {
        return Some(1);
    }
    let level: usize = style.strip_prefix("heading")?.trim().parse().ok()?;
    (1..=9).contains(&level).then_some(level.min(6))
}

/// Builds the text.
#[derive(Default)]
struct Markdown {
    styles: HashMap<String, Style>,
    text: String,
    paragraph: String,
    heading: Option<usize>,
    /// The level of a list's item, from 0.
    list: Option<usize>,
    in_text: bool,
    /// Tables that are open, the innermost last.
    tables: Vec<Table>,
}

#[derive(Default)]
struct Table {
    rows: Vec<Vec<String>>,
    cell: String,
}

impl Markdown {
    fn met(&mut self, met: Met<'_>) {
        match met {
            Met::Start(name, start) => match name {
                "p" => (self.heading, self.list) = (None, None),
                "pStyle" => {
                    let style = attribute(start, "val").unwrap_or_default();
                    match self.styles.get(&style) {
                        Some(Style::Heading(level)) => self.heading = Some(*level),
                        Some(Style::Item) => self.list = self.list.or(Some(0)),
                        None => self.heading = heading_level(&style),
                    }
                }
                "outlineLvl" if self.heading.is_none() => self.heading = outline_level(attribute(start, "val")),
                "numPr" => self.list = self.list.or(Some(0)),
                "ilvl" => {
                    self.list = attribute(start, "val").and_then(|v| v.parse().ok()).map(|level: usize| level.min(8))
                }
                "t" => self.in_text = true,
                "tab" => self.paragraph.push('\t'),
                "br" | "cr" => self.paragraph.push('\n'),
                "noBreakHyphen" => self.paragraph.push('-'),
                "tbl" => self.tables.push(Table::default()),
                "tr" => {
                    if let Some(table) = self.tables.last_mut() {
                        table.rows.push(Vec::new());
                    }
                }
                _ => {}
            },
            Met::Text(text) if self.in_text => self.paragraph.push_str(text),
            Met::Text(_) => {}
            Met::End(name) => match name {
                "t" => self.in_text = false,
                "p" => self.end_paragraph(),
                "tc" => {
                    if let Some(table) = self.tables.last_mut() {
                        let cell = std::mem::take(&mut table.cell);
                        if let Some(row) = table.rows.last_mut() {
                            row.push(cell.trim().to_owned());
                        }
                    }
                }
                "tbl" => self.end_table(),
                _ => {}
            },
        }
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        let paragraph = paragraph.trim();
        if let Some(table) = self.tables.last_mut() {
            if !table.cell.is_empty() && !paragraph.is_empty() {
                table.cell.push(' ');
            }
            table.cell.push_str(&paragraph.replace(['\n', '\t'], " ").replace('|', "\\|"));
            return;
        }
        if paragraph.is_empty() {
            return;
        }
        match (self.heading, self.list) {
            (Some(level), _) => self.block(&format!("{} {}", "#".repeat(level), paragraph.replace('\n', " "))),
            // Items of a list follow each other without an empty line.
            (None, Some(level)) => {
                let item = format!("{}- {paragraph}", "  ".repeat(level));
                let last = self.text.trim_end_matches('\n').rsplit('\n').next().unwrap_or_default();
                if last.trim_start().starts_with("- ") {
                    self.text.truncate(self.text.trim_end_matches('\n').len());
                    self.text.push('\n');
                }
                self.block(&item);
            }
            (None, None) => self.block(paragraph),
        }
    }

    fn block(&mut self, block: &str) {
        self.text.push_str(block);
        self.text.push_str("\n\n");
    }

    fn end_table(&mut self) {
        let Some(table) = self.tables.pop() else { return };
        // A table in a cell becomes the cell's text.
        if let Some(outer) = self.tables.last_mut() {
            let cells: Vec<String> = table.rows.into_iter().flatten().filter(|cell| !cell.is_empty()).collect();
            if !outer.cell.is_empty() {
                outer.cell.push(' ');
            }
            outer.cell.push_str(&cells.join(" "));
            return;
        }
        let width = table.rows.iter().map(Vec::len).max().unwrap_or(0);
        if width == 0 {
            return;
        }
        for (i, row) in table.rows.iter().enumerate() {
            self.text.push('|');
            for column in 0..width {
                self.text.push_str(&format!(" {} |", row.get(column).map_or("", String::as_str)));
            }
            self.text.push('\n');
            if i == 0 {
                self.text.push_str(&format!("|{}\n", " --- |".repeat(width)));
            }
        }
        self.text.push('\n');
    }

    fn finish(mut self) -> String {
        self.text.truncate(self.text.trim_end().len());
        self.text.push('\n');
        self.text
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn markdown(body: &str, styles: &str) -> String {
        let mut markdown = Markdown { styles: paragraph_styles(styles).unwrap(), ..Markdown::default() };
        walk(&format!("<w:document><w:body>{body}</w:body></w:document>"), |met| markdown.met(met)).unwrap();
        markdown.finish()
    }

    #[test]
    fn a_heading_is_known_by_the_name_of_its_style_in_any_language() {
        let styles = r#"<w:styles><w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style></w:styles>"#;
        let body = r#"<w:p><w:pPr><w:pStyle w:val="berschrift2"/></w:pPr><w:r><w:t>Teil</w:t></w:r></w:p>
            <w:p><w:r><w:t xml:space="preserve">a &amp; </w:t></w:r><w:r><w:t>b</w:t></w:r></w:p>"#;
        assert_eq!(markdown(body, styles), "## Teil\n\na & b\n");
    }

    #[test]
    fn tables_and_lists_become_markdown() {
        let cell = |text: &str| format!("<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>");
        let item = |level: u8, text: &str| {
            format!(
                "<w:p><w:pPr><w:numPr><w:ilvl w:val=\"{level}\"/><w:numId w:val=\"1\"/></w:numPr></w:pPr>\
                 <w:r><w:t>{text}</w:t></w:r></w:p>"
            )
        };
        let body = format!(
            "{}{}<w:tbl><w:tr>{}{}</w:tr><w:tr>{}{}</w:tr></w:tbl>",
            item(0, "one"),
            item(1, "two"),
            cell("a"),
            cell("b|c"),
            cell("1"),
            cell("")
        );
        assert_eq!(markdown(&body, "<x/>"), "- one\n  - two\n\n| a | b\\|c |\n| --- | --- |\n| 1 |  |\n");
    }

    #[test]
    fn what_was_deleted_with_changes_tracked_is_left_out() {
        let body = "<w:p><w:r><w:t>kept</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>";
        assert_eq!(markdown(body, "<x/>"), "kept\n");
    }
}
