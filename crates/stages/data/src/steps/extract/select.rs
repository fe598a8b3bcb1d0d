//! Which parts of a page are its content.
//!
//! What is never shown goes first, then what is named or marked as the page's frame, then what lies outside of the part
//! that holds most of the paragraphs, then what consists of links. Each of these is given up where it would leave too
//! little of the page.

use super::Favor;
use super::hints::{BLANK, COMMENTS, CONTENT, DOUBTFUL, HIDDEN, LINK, MAIN, NOISE, ORNAMENT};
use super::tags::Tag;
use super::tree::{Node, Tree};

/// Bytes that are no white space from which a block without many links counts as a paragraph; about 15 English words or 27
/// Chinese characters.
const PARAGRAPH: u32 = 80;
/// What is named as frame stays all the same where it holds this share of the page's paragraphs.
const FRAME_SHARE: f32 = 0.4;
/// Readers' comments may be longer than the article.
const COMMENTS_SHARE: f32 = 0.8;
/// The part of the page in which the content is sought narrows while one part has this share of the paragraphs.
const CORE_SHARE: f32 = 0.9;
/// A page of which less than this would be left without its lists of links is an index: they are its content.
const INDEX_SHARE: f32 = 0.15;
/// A page of which less than this is in paragraphs has no core of paragraphs.
const PROSE_SHARE: f32 = 0.25;
/// Up to so many elements around the core shorter texts beside it belong to it.
const NEAR: usize = 2;
/// An element that is marked as the content is believed if it has this share of the paragraphs, or of all text.
const MARKED_SHARE: f32 = 0.3;

/// Sizes of what an element contains, in bytes that are no white space.
#[derive(Clone, Copy, Default)]
struct Sizes {
    /// All texts.
    text: u32,
    /// Those inside of links.
    link: u32,
    /// Those of paragraphs.
    good: u32,
    /// Texts that belong to no block inside of this one.
    own: u32,
    own_link: u32,
    /// How many headings.
    headings: u32,
    /// How many links.
    links: u32,
}

impl Sizes {
    fn link_density(&self) -> f32 {
        self.link as f32 / self.text.max(1) as f32
    }
}

/// How much is taken.
struct Limits {
    /// From this share of link text on a part is a list of links.
    links: f32,
    /// A part outside of the core is content from this share of paragraphs on.
    outside: f32,
}

impl Limits {
    fn of(favor: Favor) -> Self {
        match favor {
            Favor::Precision => Self { links: 0.5, outside: 0.9 },
            Favor::Balanced => Self { links: 0.7, outside: 0.5 },
            Favor::Recall => Self { links: 0.9, outside: 0.0 },
        }
    }
}

/// For each node whether it, and all that it contains, is left out.
pub fn dropped(tree: &Tree<'_>, favor: Favor, comments: bool) -> Vec<bool> {
    let mut page = Page { tree, limits: Limits::of(favor), sizes: Vec::new(), dropped: never_shown(tree) };
    page.measure();
    let shown = page.dropped.clone();
    let all = page.sizes[0].text;
    page.drop_frame(comments);
    page.measure();
    if page.sizes[0].text < all / 50 {
        page.dropped = shown;
        page.measure();
    }
    page.drop_outside();
    page.measure();
    let (inside, core) = (page.dropped.clone(), page.sizes[0].text);
    page.drop_links();
    page.measure();
    if (page.sizes[0].text as f32) < core as f32 * INDEX_SHARE {
        page.dropped = inside;
    }
    page.dropped
}

/// What is never shown; if that were all, only what is no text at all.
fn never_shown(tree: &Tree<'_>) -> Vec<bool> {
    let mut dropped = vec![false; tree.nodes.len()];
    let mut shown = 0;
    let mut hidden = 0;
    let mut i = 1;
    while i < tree.nodes.len() {
        let node = &tree.nodes[i];
        if is_never_shown(node) {
            dropped[i] = true;
            hidden += if node.flags & HIDDEN != 0 { node.end as usize - i } else { 0 };
            i = node.end as usize;
        } else {
            shown += usize::from(node.tag == Tag::Text && node.flags & BLANK == 0);
            i += 1;
        }
    }
    if shown == 0 && hidden > 0 {
        for (node, dropped) in tree.nodes.iter().zip(&mut dropped) {
            *dropped = node.tag.is_never_content();
        }
    }
    dropped
}

fn is_never_shown(node: &Node) -> bool {
    node.tag.is_never_content() || node.flags & (HIDDEN | ORNAMENT) != 0 && node.tag != Tag::Body
}

struct Page<'t, 'a> {
    tree: &'t Tree<'a>,
    limits: Limits,
    sizes: Vec<Sizes>,
    dropped: Vec<bool>,
}

impl Page<'_, '_> {
    /// Measures all elements as far as they are not dropped.
    fn measure(&mut self) {
        let nodes = &self.tree.nodes;
        self.sizes.clear();
        self.sizes.resize(nodes.len(), Sizes::default());
        // The block around each node, and whether a link is.
        let mut around = vec![(0u32, false); nodes.len()];
        let mut i = 1;
        while i < nodes.len() {
            let node = &nodes[i];
            if self.dropped[i] {
                i = node.end as usize;
                continue;
            }
            let (block, in_link) = around[node.parent as usize];
            if node.tag == Tag::Text {
                let size = if node.flags & BLANK == 0 { visible(self.tree.raw(node)) } else { 0 };
                let link = if in_link { size } else { 0 };
                self.sizes[i].text = size;
                self.sizes[i].link = link;
                let block = &mut self.sizes[block as usize];
                block.own += size;
                block.own_link += link;
            } else {
                let block = if node.tag.is_inline() { block } else { i as u32 };
                around[i] = (block, in_link || node.flags & LINK != 0);
                self.sizes[i].headings = u32::from(node.tag.heading().is_some());
                self.sizes[i].links = u32::from(node.flags & LINK != 0);
            }
            i += 1;
        }
        for i in (0..nodes.len()).rev() {
            let mut size = self.sizes[i];
            if size.own >= PARAGRAPH && size.own_link * 2 <= size.own && nodes[i].tag.heading().is_none() {
                size.good += size.own - size.own_link;
                self.sizes[i].good = size.good;
            }
            if i > 0 {
                let parent = &mut self.sizes[nodes[i].parent as usize];
                parent.text += size.text;
                parent.link += size.link;
                parent.good += size.good;
                parent.headings += size.headings;
                parent.links += size.links;
            }
        }
    }

    /// Calls with every element that is not dropped, the outer before the inner; drops it where the answer is true.
    fn drop_where(&mut self, start: usize, end: usize, mut judge: impl FnMut(&Self, usize) -> bool) {
        let mut i = start;
        while i < end {
            if !self.dropped[i] && self.tree.nodes[i].tag != Tag::Text && self.sizes[i].text > 0 {
                self.dropped[i] = judge(self, i);
            }
            i = if self.dropped[i] { self.tree.nodes[i].end as usize } else { i + 1 };
        }
    }

    fn drop_frame(&mut self, comments: bool) {
        let (good, text) = (self.sizes[0].good, self.sizes[0].text);
        let share = |size: &Sizes| match good {
            0 => size.text as f32 / text.max(1) as f32,
            good => size.good as f32 / good as f32,
        };
        self.drop_where(1, self.tree.nodes.len(), |page, i| {
            let (node, size) = (&page.tree.nodes[i], &page.sizes[i]);
            let named = |flag| node.flags & flag != 0;
            if named(COMMENTS) && !comments {
                return share(size) < COMMENTS_SHARE;
            }
            if share(size) >= FRAME_SHARE {
                return false;
            }
            if matches!(node.tag, Tag::Nav | Tag::Aside | Tag::Footer | Tag::Search | Tag::Menu) {
                return true;
            }
            if named(CONTENT) && size.good > 0 && size.link_density() < 0.5 {
                return false;
            }
            let doubtful = named(DOUBTFUL) || node.tag == Tag::Header;
            named(NOISE) || doubtful && size.good == 0 && (size.headings == 0 || size.link_density() > 0.3)
        });
    }

    /// The part that holds the content, and what stands beside it that is none.
    fn drop_outside(&mut self) {
        let marked = self.marked();
        let mut core = marked;
        if self.sizes[core].good as f32 > self.sizes[core].text as f32 * PROSE_SHARE {
            while let Some(inner) = self.main_child(core) {
                core = inner;
            }
        }
        let (mut inner, mut distance) = (core, 0);
        let mut has_title = false;
        while inner != 0 {
            // What stands outside of what is marked as content is none, but for a title.
            if inner == marked {
                distance = usize::MAX;
                has_title = self.has_title(marked);
            }
            let outer = self.tree.nodes[inner].parent as usize;
            let mut child = outer + 1;
            while child < self.tree.nodes[outer].end as usize {
                let is_content = match distance {
                    usize::MAX => !has_title && self.has_title(child),
                    distance => self.is_content_outside(child, distance),
                };
                if child != inner && !is_content {
                    self.dropped[child] = true;
                }
                child = self.tree.nodes[child].end as usize;
            }
            inner = outer;
            distance = distance.saturating_add(1);
        }
    }

    fn has_title(&self, i: usize) -> bool {
        self.sizes[i].headings > 0
            && self.tree.nodes[i..self.tree.nodes[i].end as usize].iter().any(|n| n.tag == Tag::H1)
    }

    /// The element that the page marks as its content, or the whole page.
    fn marked(&self) -> usize {
        let all = &self.sizes[0];
        let believed = |size: &Sizes| {
            size.good as f32 > all.good as f32 * MARKED_SHARE && size.good > 0
                || size.text as f32 > all.text as f32 * MARKED_SHARE
        };
        let marked = self.tree.nodes.iter().enumerate().filter(|(i, node)| {
            (node.tag == Tag::Main || node.flags & MAIN != 0) && !self.dropped[*i] && believed(&self.sizes[*i])
        });
        marked.map(|(i, _)| i).max_by_key(|&i| (self.sizes[i].text, std::cmp::Reverse(i))).unwrap_or(0)
    }

    /// The only child that counts.
    fn main_child(&self, i: usize) -> Option<usize> {
        let wanted = (self.sizes[i].good as f32 * CORE_SHARE).max(1.0);
        let mut child = i + 1;
        while child < self.tree.nodes[i].end as usize {
            if self.sizes[child].good as f32 >= wanted
                && !self.dropped[child]
                && !is_part_of_table(self.tree.nodes[child].tag)
            {
                return Some(child);
            }
            child = self.tree.nodes[child].end as usize;
        }
        None
    }

    /// Beside the core only titles and what has paragraphs of its own are content; near to it also shorter texts.
    fn is_content_outside(&self, i: usize, distance: usize) -> bool {
        let size = &self.sizes[i];
        let node = &self.tree.nodes[i];
        let titles = self.tree.nodes[i..node.end as usize].iter().any(|n| matches!(n.tag, Tag::H1 | Tag::H2));
        let near = distance < NEAR && size.text - size.link >= PARAGRAPH && size.link * 5 < size.text;
        near || size.good as f32 > size.text as f32 * self.limits.outside || size.headings > 0 && titles
    }

    /// Lists of links, except those that the text introduces.
    fn drop_links(&mut self) {
        let limit = self.limits.links;
        self.drop_where(1, self.tree.nodes.len(), |page, i| {
            use Tag::*;
            let size = &page.sizes[i];
            let is_part = match page.tree.nodes[i].tag {
                // Of a section with paragraphs only the lists go.
                Div | Section | Details | Fieldset => size.headings == 0 || size.good == 0,
                Table | Center | Header | Figure | P => true,
                Ul | Ol | Dl | Dir | Menu => !page.is_introduced(i),
                _ => false,
            };
            is_part && size.link_density() > limit
        });
    }

    /// The text before ends with a colon.
    fn is_introduced(&self, i: usize) -> bool {
        let before = self.tree.nodes[i.saturating_sub(8)..i].iter().rev();
        let text = before
            .filter(|node| node.tag == Tag::Text && node.flags & BLANK == 0)
            .map(|node| self.tree.raw(node))
            .next();
        text.is_some_and(|text| text.trim_end().ends_with([':', '：']))
    }
}

fn is_part_of_table(tag: Tag) -> bool {
    matches!(tag, Tag::Thead | Tag::Tbody | Tag::Tfoot | Tag::Tr)
}

/// Bytes that are no white space.
fn visible(text: &str) -> u32 {
    text.bytes().map(|b| u32::from(b > b' ')).sum()
}
