//! The tree of a page: read in one pass, kept in one list.
//!
//! The nodes stand in the order of the page, so that a subtree is a stretch of the list and passes over the page are loops.
//! Texts and attributes stay in the source. Unclosed and wrongly nested tags are taken as browsers take them as far as it
//! matters for text; what is nested deeper than [`MAX_DEPTH`] is taken as side by side.

use memchr::memchr;
use memchr::memmem;

use super::attributes::{Attributes, Quotes};
use super::hints::{BLANK, Flags, LINK, Names, of_attribute};
use super::tags::{TAGS, Tag};

/// How deep elements may be nested (browsers: 512).
pub const MAX_DEPTH: usize = 256;
/// How far up the end tag of an unknown element looks for its start.
const UNKNOWN_REACH: usize = 32;

/// An element or a text.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub tag: Tag,
    pub flags: Flags,
    /// The element around it; its own number for the root.
    pub parent: u32,
    /// The first node behind it and all that it contains.
    pub end: u32,
    /// Where it stands in the source: a text, or a start tag from its name to before its `>`.
    pub start: u32,
    pub stop: u32,
}

/// A page.
pub struct Tree<'a> {
    pub source: &'a str,
    /// In the order of the page; the first is the root.
    pub nodes: Vec<Node>,
}

impl<'a> Tree<'a> {
    /// Reads a page of less than 4 GiB.
    pub fn parse(source: &'a str) -> Self {
        let mut builder = Builder::new(source);
        builder.run();
        Self { source, nodes: builder.nodes }
    }

    /// A text as it stands in the source.
    pub fn raw(&self, node: &Node) -> &'a str {
        self.source.get(node.start as usize..node.stop as usize).unwrap_or_default()
    }

    /// All attributes of an element.
    pub fn attributes(&self, node: &Node) -> Attributes<'a> {
        let tag = self.source.get(..node.stop as usize).unwrap_or_default();
        let name = tag.as_bytes().get(node.start as usize..).unwrap_or_default().iter();
        let name = name.take_while(|&&b| !ends_name(b)).count();
        Attributes::new(tag, node.start as usize + name, Quotes::default())
    }

    /// An attribute of an element, as it stands in the source; of a repeated one the first.
    pub fn attribute(&self, node: &Node, name: &str) -> Option<&'a str> {
        self.attributes(node).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The nodes inside an element.
    pub fn inside(&self, i: usize) -> std::ops::Range<usize> {
        i + 1..self.nodes[i].end as usize
    }
}

fn ends_name(b: u8) -> bool {
    matches!(b, b'/' | b'>') || b.is_ascii_whitespace()
}

struct Builder<'a> {
    source: &'a str,
    nodes: Vec<Node>,
    /// The elements that are not closed yet; the first is the root.
    open: Vec<(u32, Tag)>,
    /// How many of them have a tag.
    count: [u16; TAGS],
    names: Names,
    /// Whether the head and the body were begun; they are not begun twice.
    seen: [bool; 2],
    quotes: Quotes,
    /// `<a/>` is an element without content, as in XML; in HTML it is a start tag.
    xml: bool,
}

impl<'a> Builder<'a> {
    fn new(source: &'a str) -> Self {
        let beginning = &source.as_bytes()[..source.len().min(1024)];
        let mut nodes = Vec::with_capacity(source.len() / 24 + 16);
        nodes.push(Node { tag: Tag::Html, flags: 0, parent: 0, end: 1, start: 0, stop: 0 });
        let mut open = Vec::with_capacity(MAX_DEPTH);
        open.push((0, Tag::Html));
        Self {
            source,
            nodes,
            open,
            count: [0; TAGS],
            names: Names::new(),
            seen: [false; 2],
            quotes: Quotes::default(),
            xml: beginning.starts_with(b"<?xml") || memmem::find(beginning, b"http://www.w3.org/1999/xhtml").is_some(),
        }
    }

    fn run(&mut self) {
        let bytes = self.source.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let tag = memchr(b'<', &bytes[at..]).map_or(bytes.len(), |i| at + i);
            self.text(at, tag);
            at = if tag < bytes.len() { self.markup(tag) } else { tag };
        }
        self.close_from(0);
    }

    /// What a `<` begins; gives where it ends.
    fn markup(&mut self, at: usize) -> usize {
        let bytes = self.source.as_bytes();
        let behind = |i: usize| memchr(b'>', &bytes[i..]).map_or(bytes.len(), |n| i + n + 1);
        match bytes.get(at + 1) {
            Some(b) if b.is_ascii_alphabetic() => self.start_tag(at + 1),
            Some(b'/') => match bytes.get(at + 2) {
                Some(b) if b.is_ascii_alphabetic() => {
                    self.end_tag(at + 2);
                    behind(at + 2)
                }
                Some(_) => behind(at + 2),
                None => bytes.len(),
            },
            Some(b'!') if bytes[at..].starts_with(b"<!--") => self.behind_comment(at + 4),
            Some(b'!' | b'?') => behind(at + 2),
            _ => {
                self.text(at, at + 1);
                at + 1
            }
        }
    }

    fn behind_comment(&self, start: usize) -> usize {
        let rest = &self.source.as_bytes()[start..];
        if rest.starts_with(b">") {
            return start + 1;
        }
        if rest.starts_with(b"->") {
            return start + 2;
        }
        let mut at = 0;
        while let Some(i) = memmem::find(&rest[at..], b"--") {
            let behind = at + i + 2;
            match rest.get(behind) {
                Some(b'>') => return start + behind + 1,
                Some(b'!') if rest.get(behind + 1) == Some(&b'>') => return start + behind + 2,
                _ => at += i + 1,
            }
        }
        self.source.len()
    }

    fn top(&self) -> (u32, Tag) {
        self.open.last().copied().unwrap_or((0, Tag::Html))
    }

    fn text(&mut self, start: usize, stop: usize) {
        if start == stop {
            return;
        }
        let blank = self.source.as_bytes()[start..stop].iter().all(u8::is_ascii_whitespace);
        if let Some(last) = self.nodes.last_mut()
            && last.tag == Tag::Text
            && last.stop as usize == start
        {
            last.stop = stop as u32;
            last.flags &= if blank { BLANK } else { 0 };
            return;
        }
        if !blank && self.top().1 == Tag::Head {
            self.close_from(self.open.len() - 1);
        }
        self.push(Tag::Text, if blank { BLANK } else { 0 }, start, stop);
    }

    fn push(&mut self, tag: Tag, flags: Flags, start: usize, stop: usize) {
        let i = self.nodes.len() as u32;
        let parent = self.top().0;
        self.nodes.push(Node { tag, flags, parent, end: i + 1, start: start as u32, stop: stop as u32 });
    }

    /// Closes the open elements from that one on.
    fn close_from(&mut self, first: usize) {
        let end = self.nodes.len() as u32;
        for (i, tag) in self.open.drain(first..) {
            self.nodes[i as usize].end = end;
            self.count[tag as usize] = self.count[tag as usize].saturating_sub(1);
        }
    }

    /// Closes the innermost open element that is sought, if none that is a border is in between.
    fn close(&mut self, sought: impl Fn(Tag) -> bool, border: impl Fn(Tag) -> bool) {
        for i in (1..self.open.len()).rev() {
            if sought(self.open[i].1) {
                return self.close_from(i);
            }
            if border(self.open[i].1) {
                return;
            }
        }
    }

    fn is_open(&self, tag: Tag) -> bool {
        self.count[tag as usize] > 0
    }

    fn start_tag(&mut self, start: usize) -> usize {
        let bytes = self.source.as_bytes();
        let length = bytes[start..].iter().take_while(|&&b| !ends_name(b)).count();
        let tag = Tag::of(&bytes[start..start + length]);
        let mut attributes = Attributes::new(self.source, start + length, self.quotes);
        let mut flags = 0;
        for (name, value) in attributes.by_ref() {
            flags |= of_attribute(&mut self.names, tag, name, value);
        }
        self.quotes = attributes.quotes();
        // A tag that is cut off is nothing.
        let Some(stop) = attributes.end else { return bytes.len() };
        match tag {
            Tag::Html => {
                let root = &mut self.nodes[0];
                (root.start, root.stop) =
                    if root.stop == 0 { (start as u32, stop as u32) } else { (root.start, root.stop) };
                return stop + 1;
            }
            Tag::Head | Tag::Body if self.seen[usize::from(tag == Tag::Body)] => return stop + 1,
            Tag::Head | Tag::Body => self.seen[usize::from(tag == Tag::Body)] = true,
            _ => {}
        }
        self.make_room_for(tag);
        if self.open.len() >= MAX_DEPTH {
            self.close_from(MAX_DEPTH - 1);
        }
        let empty =
            tag.is_void() || attributes.slash && (self.xml || self.is_open(Tag::Svg) || self.is_open(Tag::Math));
        let number = self.nodes.len() as u32;
        self.push(tag, flags, start, stop);
        if empty {
            return stop + 1;
        }
        self.open.push((number, tag));
        self.count[tag as usize] += 1;
        if tag.is_raw() && !self.is_open(Tag::Svg) { self.raw_text(tag, start, length, stop + 1) } else { stop + 1 }
    }

    /// The content of a script and its like, up to its end tag.
    fn raw_text(&mut self, tag: Tag, name: usize, length: usize, start: usize) -> usize {
        let bytes = self.source.as_bytes();
        let name = &bytes[name..name + length];
        let mut at = start;
        let (end, behind) = loop {
            let Some(i) = memchr(b'<', &bytes[at..]).filter(|_| tag != Tag::Plaintext) else {
                break (bytes.len(), bytes.len());
            };
            at += i + 1;
            let rest = &bytes[at..];
            if rest.first() == Some(&b'/')
                && rest.get(1..=length).is_some_and(|r| r.eq_ignore_ascii_case(name))
                && rest.get(1 + length).is_none_or(|&b| ends_name(b))
            {
                break (at - 1, memchr(b'>', rest).map_or(bytes.len(), |i| at + i + 1));
            }
        };
        // Not `text`, which would merge it with a text before.
        if start < end {
            self.push(Tag::Text, 0, start, end);
        }
        self.close_from(self.open.len() - 1);
        behind
    }

    /// Closes what a start tag ends without an end tag.
    fn make_room_for(&mut self, tag: Tag) {
        use Tag::*;
        if self.top().1 == Head && !tag.is_of_head() {
            self.close_from(self.open.len() - 1);
        }
        match tag {
            Li if self.is_open(Li) => {
                self.close(|t| t == Li, |t| matches!(t, Ul | Ol | Menu | Dir) || t.is_cell_border())
            }
            Dt | Dd if self.is_open(Dt) || self.is_open(Dd) => {
                self.close(|t| matches!(t, Dt | Dd), |t| t == Dl || t.is_cell_border());
            }
            Option | Optgroup if self.is_open(Option) => self.close(|t| t == Option, |t| t == Select),
            Rt | Rp => self.close(|t| matches!(t, Rt | Rp), |t| t == Ruby || !t.is_inline()),
            A if self.is_open(A) => self.end_link(),
            Tr if self.is_open(Tr) => self.close(|t| t == Tr, |t| t == Table),
            Td | Th if self.is_open(Td) || self.is_open(Th) => {
                self.close(|t| matches!(t, Td | Th), |t| matches!(t, Tr | Table));
            }
            Thead | Tbody | Tfoot | Caption | Colgroup if self.is_open(Table) => {
                self.close(|t| matches!(t, Thead | Tbody | Tfoot | Caption | Colgroup), |t| t == Table);
            }
            _ => {}
        }
        if tag.heading().is_some() && self.top().1.heading().is_some() {
            self.close_from(self.open.len() - 1);
        }
        if self.is_open(P) && !tag.is_inline() && !tag.is_of_head() {
            self.close(|t| t == P, |t| t.is_cell_border() || matches!(t, Button | Object));
        }
    }

    /// A link ends where the next begins; one that was left open around parts of the page is none.
    fn end_link(&mut self) {
        for i in (1..self.open.len()).rev() {
            match self.open[i] {
                (_, Tag::A) => return self.close_from(i),
                (_, tag) if tag.is_inline() => {}
                _ => break,
            }
        }
        for &(i, tag) in &self.open {
            if tag == Tag::A {
                self.nodes[i as usize].flags &= !LINK;
            }
        }
    }

    fn end_tag(&mut self, start: usize) {
        use Tag::*;
        let bytes = self.source.as_bytes();
        let length = bytes[start..].iter().take_while(|&&b| !ends_name(b)).count();
        let name = &bytes[start..start + length];
        let tag = Tag::of(name);
        if tag.heading().is_some() {
            return self.close(|t| t.heading().is_some(), |t| t.is_cell_border());
        }
        if !self.is_open(tag) || matches!(tag, Body | Html) {
            return;
        }
        match tag {
            Other => self.end_unknown(name),
            Table => self.close(|t| t == Table, |_| false),
            Td | Th | Tr | Thead | Tbody | Tfoot | Caption | Colgroup => self.close(|t| t == tag, |t| t == Table),
            A => self.close(|t| t == A, Tag::is_cell_border),
            tag if tag.is_inline() => self.close(|t| t == tag, |t| !t.is_inline()),
            tag => self.close(|t| t == tag, |t| t.is_cell_border()),
        }
    }

    fn end_unknown(&mut self, name: &[u8]) {
        for i in (1..self.open.len()).rev().take(UNKNOWN_REACH) {
            let (node, tag) = self.open[i];
            let start = self.nodes[node as usize].start as usize;
            let opened = self.source.as_bytes().get(start..).unwrap_or_default();
            if tag == Tag::Other
                && opened.get(..name.len()).is_some_and(|o| o.eq_ignore_ascii_case(name))
                && opened.get(name.len()).is_some_and(|&b| ends_name(b))
            {
                return self.close_from(i);
            }
            if tag.is_cell_border() {
                return;
            }
        }
    }
}
