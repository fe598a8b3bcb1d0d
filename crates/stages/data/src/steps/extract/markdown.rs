//! The content of a page as Markdown.

use super::entities::{decode, decode_into};
use super::hints::{BLANK, FORMULA};
use super::maths;
use super::table;
use super::tags::Tag;
use super::tree::Tree;
use super::writer::Writer;
use super::{Extract, Links};

/// Signs that link to the heading they stand beside.
const HEADING_SIGNS: [&str; 5] = ["¶", "§", "#", "🔗", "&para;"];
/// The longest name of a programming language.
const LONGEST_LANGUAGE: usize = 20;

/// Walks over a page and writes what is not dropped.
pub struct Renderer<'p, 'a> {
    pub tree: &'p Tree<'a>,
    pub dropped: &'p [bool],
    pub settings: &'p Extract,
    pub writer: Writer,
    /// A heading that was written last, and where: without text it goes if what it headed was dropped.
    heading: Option<(usize, usize, usize)>,
    /// Something was dropped since then.
    gone: bool,
}

impl<'p, 'a> Renderer<'p, 'a> {
    pub fn new(tree: &'p Tree<'a>, dropped: &'p [bool], settings: &'p Extract) -> Self {
        let writer = Writer::new(tree.source.len() / 4);
        Self { tree, dropped, settings, writer, heading: None, gone: false }
    }

    /// The whole page.
    pub fn page(mut self) -> String {
        self.children(0);
        self.end_heading(0);
        let mut text = self.writer.finish();
        text.truncate(text.trim_end().len());
        text
    }

    /// What an element contains.
    pub fn children(&mut self, i: usize) {
        let end = self.tree.nodes[i].end as usize;
        let mut child = i + 1;
        while child < end {
            self.node(child);
            child = self.tree.nodes[child].end as usize;
        }
    }

    fn node(&mut self, i: usize) {
        let tree = self.tree;
        let node = &tree.nodes[i];
        if node.tag == Tag::Text {
            if !self.dropped[i] {
                match node.flags & BLANK {
                    0 => self.writer.text(tree.raw(node)),
                    _ => self.writer.space(),
                }
            }
            return;
        }
        if self.formula(i) {
            return;
        }
        if self.dropped[i] {
            self.gone = true;
            return;
        }
        self.element(i, node.tag);
    }

    fn element(&mut self, i: usize, tag: Tag) {
        use Tag::*;
        match tag {
            Br => self.writer.line(),
            H1 | H2 | H3 | H4 | H5 | H6 => self.heading(i, tag.heading().unwrap_or(1)),
            Pre | Xmp | Plaintext => self.code_block(i),
            Code | Tt | Kbd | Samp if self.settings.marks => self.code(i),
            Em | I | Strong | B if self.settings.marks => {
                let sign = if matches!(tag, Em | I) { "*" } else { "**" };
                self.marked(i, sign, sign);
            }
            Ul | Ol | Dir | Menu => self.list(i, tag == Ol),
            Li => {
                self.writer.tight_line();
                self.item(i, "- ");
            }
            Dt => self.boxed(i),
            Dd => {
                self.writer.tight_line();
                self.led(i, ": ", "  ");
            }
            Blockquote => {
                self.writer.block();
                let before = self.writer.indent("> ");
                self.children(i);
                self.writer.outdent(before);
                self.writer.block();
            }
            Table => table::write(self, i),
            Td | Th => self.boxed(i),
            A => self.link(i),
            tag if tag.is_inline() => self.children(i),
            _ => self.boxed(i),
        }
    }

    /// An element that stands for itself.
    fn boxed(&mut self, i: usize) {
        self.writer.block();
        self.children(i);
        self.writer.block();
    }

    /// A part that begins with a sign.
    fn led(&mut self, i: usize, sign: &str, indent: &str) {
        self.writer.lead(sign);
        let before = self.writer.indent(indent);
        self.children(i);
        self.writer.outdent(before);
        self.writer.clear_lead();
    }

    fn heading(&mut self, i: usize, level: usize) {
        self.end_heading(level);
        self.writer.block();
        let start = self.writer.len();
        self.writer.lead(&"######"[..level]);
        self.writer.lead(" ");
        let text = self.flat(i);
        let mut text = text.trim();
        for sign in HEADING_SIGNS {
            text = text.strip_suffix(sign).unwrap_or(text).trim_end();
        }
        self.writer.verbatim(text);
        self.writer.clear_lead();
        self.writer.block();
        self.heading = Some((start, self.writer.len(), level));
        self.gone = false;
    }

    /// Before a heading of that level: takes back one whose content was dropped.
    fn end_heading(&mut self, level: usize) {
        if let Some((start, end, last)) = self.heading.take()
            && self.gone
            && level <= last
            && self.writer.len() == end
        {
            self.writer.truncate(start);
        }
    }

    /// What an element contains in one line, with the same rules.
    pub fn flat(&mut self, i: usize) -> String {
        let outer = std::mem::replace(&mut self.writer, Writer::flat());
        self.children(i);
        std::mem::replace(&mut self.writer, outer).finish()
    }

    fn list(&mut self, i: usize, ordered: bool) {
        let nested = self.tree.nodes[self.tree.nodes[i].parent as usize].tag == Tag::Li;
        if nested {
            self.writer.line()
        } else {
            self.writer.block()
        }
        let start = self.tree.attribute(&self.tree.nodes[i], "start").and_then(|start| start.trim().parse().ok());
        let mut number: i32 = start.unwrap_or(1);
        let mut first = true;
        let end = self.tree.nodes[i].end as usize;
        let mut child = i + 1;
        while child < end {
            let node = &self.tree.nodes[child];
            if node.tag == Tag::Li && !self.dropped[child] {
                let sign = if ordered { format!("{number}. ") } else { "- ".to_owned() };
                // Items stand close together, whatever their paragraphs ask for.
                if !std::mem::take(&mut first) {
                    self.writer.tight_line();
                }
                self.item(child, &sign);
                number = number.saturating_add(1);
            } else if node.tag != Tag::Text || node.flags & BLANK == 0 {
                self.node(child);
            }
            child = node.end as usize;
        }
        if nested { self.writer.line() } else { self.writer.block() }
    }

    fn item(&mut self, i: usize, sign: &str) {
        self.led(i, sign, &"      "[..sign.len().min(4)]);
        self.writer.line();
    }

    fn link(&mut self, i: usize) {
        if self.settings.links == Links::Text {
            return self.children(i);
        }
        let target = self.tree.attribute(&self.tree.nodes[i], "href").map(|target| decode(target.trim(), true));
        let Some(target) = target.filter(|target| is_address(target)) else { return self.children(i) };
        self.marked(i, "[", &format!("]({target})"));
    }

    /// An element in a line between two signs, which stand beside its words; without them around blocks and around nothing.
    fn marked(&mut self, i: usize, before: &str, behind: &str) {
        if self.tree.inside(i).any(|i| !self.tree.nodes[i].tag.is_inline()) {
            return self.children(i);
        }
        let outer = std::mem::replace(&mut self.writer, Writer::flat());
        self.children(i);
        let inner = std::mem::replace(&mut self.writer, outer);
        let (space_before, space_behind) = inner.spaces();
        let text = inner.finish();
        if space_before || text.is_empty() && space_behind {
            self.writer.space();
        }
        if !text.is_empty() {
            self.writer.verbatim(&format!("{before}{text}{behind}"));
            if space_behind {
                self.writer.space();
            }
        }
    }

    /// Code in a line.
    fn code(&mut self, i: usize) {
        let mut text = String::new();
        self.collect(i, &mut text);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match text.as_str() {
            "" => self.writer.space(),
            text if text.contains("``") => self.writer.verbatim(text),
            text if text.contains('`') => self.writer.verbatim(&format!("`` {text} ``")),
            text => self.writer.verbatim(&format!("`{text}`")),
        }
    }

    /// Code in lines of its own; white space is kept.
    fn code_block(&mut self, i: usize) {
        let mut text = String::new();
        self.collect(i, &mut text);
        let text = text.strip_prefix("\r\n").or(text.strip_prefix('\n')).unwrap_or(&text).trim_end();
        if text.trim().is_empty() {
            return;
        }
        if self.writer.is_flat() {
            return self.writer.plain(text);
        }
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        self.writer.block();
        self.writer.lines(&format!("{fence}{}\n{text}\n{fence}", self.language(i)));
        self.writer.block();
    }

    /// The texts inside an element as they are.
    pub fn collect(&self, i: usize, out: &mut String) {
        let mut at = i + 1;
        while at < self.tree.nodes[i].end as usize {
            let node = &self.tree.nodes[at];
            if self.dropped[at] {
                at = node.end as usize;
                continue;
            }
            match node.tag {
                Tag::Text => decode_into(out, self.tree.raw(node), false),
                Tag::Br => out.push('\n'),
                _ => {}
            }
            at += 1;
        }
    }

    /// The programming language of a block of code, as its names tell it: `language-rust`, `highlight-python3`.
    fn language(&self, i: usize) -> String {
        let nodes = &self.tree.nodes;
        let parent = nodes[i].parent as usize;
        let around = [i, parent, nodes[parent].parent as usize];
        let inside = (i + 1 < nodes[i].end as usize).then_some(i + 1);
        for i in inside.into_iter().chain(around).filter(|&i| nodes[i].tag != Tag::Text) {
            for name in self.tree.attribute(&nodes[i], "class").unwrap_or_default().split_ascii_whitespace() {
                let language = ["language-", "lang-", "highlight-source-", "highlight-", "brush:"]
                    .iter()
                    .find_map(|prefix| name.strip_prefix(prefix))
                    .filter(|language| !matches!(*language, "" | "default" | "none" | "text"));
                if let Some(language) = language
                    && language.len() <= LONGEST_LANGUAGE
                    && language.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'#' | b'-' | b'_'))
                {
                    return language.to_ascii_lowercase();
                }
            }
        }
        String::new()
    }

    /// Writes a formula as TeX if that is what the element is.
    fn formula(&mut self, i: usize) -> bool {
        let node = &self.tree.nodes[i];
        let kind = match node.tag {
            Tag::Script | Tag::Math => maths::of_element(self.tree, i),
            Tag::Img if node.flags & FORMULA != 0 => maths::of_picture(self.tree, node),
            _ => None,
        };
        let Some(formula) = kind else { return false };
        if formula.display {
            self.writer.block();
            self.writer.verbatim(&format!("$${}$$", formula.tex));
            self.writer.block();
        } else {
            self.writer.verbatim(&format!("${}$", formula.tex));
        }
        true
    }
}

/// What can be gone to: no program, no place on the same page.
fn is_address(target: &str) -> bool {
    let scheme = |name: &str| target.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    !target.is_empty() && !target.starts_with('#') && !scheme("javascript:") && !target.contains(['\n', ' ', ')'])
}
