//! Writing Markdown: blocks with blank lines between them, list items, quotes, text with single spaces.

use memchr::memchr;

use super::entities::decode_into;

/// Deeper lists and quotes are not indented further, so that a line's indent stays small beside its text.
const MAX_INDENT: usize = 16;

/// What stands between what was written and what comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    None,
    Space,
    Line,
    Block,
}

/// A text in the making.
pub struct Writer {
    out: String,
    gap: Gap,
    /// What each line begins with, e.g. `> ` in a quote.
    indent: String,
    /// What the next text begins with: the sign of a list item or a heading.
    lead: String,
    /// How long the indent was when it was given.
    lead_at: usize,
    /// How long the indent of the last line was.
    last_indent: usize,
    /// Everything in one line: the cell of a table.
    flat: bool,
    led_by_space: bool,
    scratch: String,
}

impl Writer {
    pub fn new(capacity: usize) -> Self {
        Self {
            out: String::with_capacity(capacity),
            gap: Gap::None,
            indent: String::new(),
            lead: String::new(),
            lead_at: 0,
            last_indent: 0,
            flat: false,
            led_by_space: false,
            scratch: String::new(),
        }
    }

    /// A writer of one line.
    pub fn flat() -> Self {
        Self { flat: true, ..Self::new(64) }
    }

    /// What was written.
    pub fn finish(self) -> String {
        self.out
    }

    /// Whether white space came before the first word of a writer of one line, and after the last.
    pub fn spaces(&self) -> (bool, bool) {
        (self.led_by_space, self.gap != Gap::None)
    }

    /// Everything goes into one line.
    pub fn is_flat(&self) -> bool {
        self.flat
    }

    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Takes back what was written from there on.
    pub fn truncate(&mut self, len: usize) {
        self.out.truncate(len);
        self.block();
    }

    /// A new block begins, or the last one ended.
    pub fn block(&mut self) {
        // The first block of a list item stands beside its sign.
        if self.lead.is_empty() {
            self.gap = self.gap.max(if self.flat { Gap::Space } else { Gap::Block });
        }
    }

    /// A new line begins.
    pub fn line(&mut self) {
        if self.lead.is_empty() {
            self.gap = self.gap.max(if self.flat { Gap::Space } else { Gap::Line });
        }
    }

    /// A new line begins, and no more than that.
    pub fn tight_line(&mut self) {
        if self.gap == Gap::Block {
            self.gap = Gap::Line;
        }
        self.line();
    }

    pub fn space(&mut self) {
        self.gap = self.gap.max(Gap::Space);
    }

    /// What the next text begins with.
    pub fn lead(&mut self, lead: &str) {
        if !self.flat {
            if self.lead.is_empty() {
                self.lead_at = self.indent.len();
            }
            self.lead.push_str(lead);
        }
    }

    /// Forgets it if no text came.
    pub fn clear_lead(&mut self) {
        self.lead.clear();
    }

    /// Lines begin with this too, until [`Writer::outdent`] with what this gives.
    pub fn indent(&mut self, more: &str) -> usize {
        let before = self.indent.len();
        if !self.flat && before + more.len() <= MAX_INDENT {
            self.indent.push_str(more);
        }
        before
    }

    pub fn outdent(&mut self, before: usize) {
        self.indent.truncate(before);
    }

    /// Writes the gap and the lead.
    fn begin(&mut self) {
        if self.out.is_empty() {
            self.led_by_space = self.gap != Gap::None;
            self.out.push_str(&self.indent[..self.indent_of_line()]);
        } else {
            match self.gap {
                Gap::None => {}
                Gap::Space if self.out.ends_with([' ', '\n']) => {}
                Gap::Space => self.out.push(' '),
                Gap::Line => self.new_line(),
                Gap::Block => {
                    // The empty line belongs to what both blocks are inside of.
                    self.out.push('\n');
                    self.out.push_str(self.indent[..self.indent_of_line().min(self.last_indent)].trim_end());
                    self.new_line();
                }
            }
        }
        self.last_indent = self.indent_of_line();
        self.gap = Gap::None;
        self.out.push_str(&self.lead);
        self.lead.clear();
    }

    fn new_line(&mut self) {
        self.out.push('\n');
        self.out.push_str(&self.indent[..self.indent_of_line()]);
    }

    /// A list item's sign stands where the item's other lines are indented already.
    fn indent_of_line(&self) -> usize {
        if self.lead.is_empty() { self.indent.len() } else { self.lead_at.min(self.indent.len()) }
    }

    /// A text of the page, with its references; white space becomes single spaces.
    pub fn text(&mut self, raw: &str) {
        if memchr(b'&', raw.as_bytes()).is_some() {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            decode_into(&mut scratch, raw, false);
            self.plain(&scratch);
            self.scratch = scratch;
        } else {
            self.plain(raw);
        }
    }

    /// A text without references; white space becomes single spaces.
    pub fn plain(&mut self, text: &str) {
        if text.is_ascii() {
            // Most texts; words are found byte by byte.
            let words = text.as_bytes().split(|&b| matches!(b, b' ' | b'\n' | b'\t' | b'\r' | 0xC));
            return self.words(words.map(|word| std::str::from_utf8(word).unwrap_or_default()));
        }
        self.words(text.split(is_space));
    }

    /// Words with single spaces between them; an empty one is white space.
    fn words<'w>(&mut self, words: impl Iterator<Item = &'w str>) {
        for (i, word) in words.enumerate() {
            if i > 0 {
                self.space();
            }
            self.word(word);
        }
    }

    fn word(&mut self, word: &str) {
        if word.is_ascii() || !word.contains(is_invisible) {
            self.verbatim(word);
        } else {
            let visible: String = word.chars().filter(|&c| !is_invisible(c)).collect();
            self.verbatim(&visible);
        }
    }

    /// Exactly that, in the current line.
    pub fn verbatim(&mut self, text: &str) {
        if !text.is_empty() {
            if self.gap != Gap::None || !self.lead.is_empty() {
                self.begin();
            }
            self.out.push_str(text);
        }
    }

    /// Lines as they are, indented as a block.
    pub fn lines(&mut self, text: &str) {
        for (i, line) in text.split('\n').enumerate() {
            if i == 0 {
                self.begin();
            } else {
                self.new_line();
            }
            self.out.push_str(line);
        }
    }
}

/// White space of HTML, and spaces that only forbid a line's end.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\t' | '\r' | '\u{C}' | '\u{A0}' | '\u{202F}')
}

/// Signs for where a word may be divided, and byte order marks.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{200B}' | '\u{FEFF}')
}
