//! What an element's attributes say about its place on the page.

use std::collections::HashMap;
use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64;

use super::tags::Tag;

/// Flags of an element.
pub type Flags = u16;

/// Not shown: `hidden`, `aria-hidden`, `display: none`.
pub const HIDDEN: Flags = 1;
/// A link: `a` with `href`.
pub const LINK: Flags = 2;
/// Belongs to the page's frame by its role or name: navigation, footers, sidebars, advertisements, sharing.
pub const NOISE: Flags = 4;
/// Often belongs to the frame, and sometimes to the content: headers, tables of contents, widgets.
pub const DOUBTFUL: Flags = 8;
/// Readers' comments.
pub const COMMENTS: Flags = 16;
/// Named as content.
pub const CONTENT: Flags = 32;
/// An ornament inside of content that is no part of the text: signs for permanent links, line numbers, edit buttons.
pub const ORNAMENT: Flags = 64;
/// The role `main`.
pub const MAIN: Flags = 128;
/// A picture or rendering of a formula.
pub const FORMULA: Flags = 256;
/// A table that only arranges.
pub const LAYOUT: Flags = 512;
/// A text of nothing but white space.
pub const BLANK: Flags = 1024;

/// Said by a word only: the name says what is not meant.
const NEGATION: Flags = 1 << 15;

/// Whole names, as they stand in `class`, of ornaments.
const ORNAMENTS: &str = "headerlink permalink anchorjs-link heading-anchor header-anchor anchor-link hash-link mw-editsection \
    mw-jump-link mw-cite-backlink sr-only visually-hidden visuallyhidden screen-reader-text skip-link skiplink \
    skip-to-content lineno linenos linenodiv gutter line-numbers-rows linenumber copybtn copy-button noprint \
    mathjax_preview mathjax mathjax_display mathjax_svg mathjax_chtml mathjax_mathml katex-html";

/// Whole names of renderings of formulas.
const FORMULAS: &str = "mwe-math-fallback-image-inline mwe-math-fallback-image-display tex latex math-tex latex_image";

/// Words of the frame.
const NOISE_WORDS: &str = "ad ads adsbygoogle adsense advert advertisement advertising banner breadcrumb breadcrumbs consent cookie \
    cookies disclaimer footer gdpr login masthead modal nav navbar navbox navi navigation newsletter outbrain \
    pager pagination paywall popup promo recommendations recommended related share sharebar shares sharing \
    sidebar signup skyscraper social sponsor sponsored subscribe subscription syndication taboola toolbar \
    trending upsell";

/// Words of what may be either.
const DOUBTFUL_WORDS: &str = "actions bottom catlinks crumbs follow foot header indices languages links menu meta metadata more next \
    previous prevnext print rating search tags teaser toc tool tools top widget widgets";

const COMMENT_WORDS: &str = "comment comments commentlist disqus replies respond";

const CONTENT_WORDS: &str = "article body content document entry hentry main post prose story text";

/// Words before which another says what is *not* meant: `has-sidebar`, `no-footer`.
const NEGATIONS: &str = "has no with without is";

type Meanings = HashMap<&'static str, Flags>;

fn meanings(lists: &[(&'static str, Flags)]) -> Meanings {
    lists.iter().flat_map(|&(words, flags)| words.split_ascii_whitespace().map(move |word| (word, flags))).collect()
}

static WHOLE: LazyLock<Meanings> = LazyLock::new(|| meanings(&[(ORNAMENTS, ORNAMENT), (FORMULAS, FORMULA)]));

static WORDS: LazyLock<Meanings> = LazyLock::new(|| {
    meanings(&[
        (NOISE_WORDS, NOISE),
        (DOUBTFUL_WORDS, DOUBTFUL),
        (COMMENT_WORDS, COMMENTS),
        (CONTENT_WORDS, CONTENT),
        (NEGATIONS, NEGATION),
    ])
});

/// What names say, remembered for the page: a page has few names and uses them often.
pub struct Names {
    known: Vec<(u64, Flags)>,
}

impl Names {
    const SLOTS: usize = 256;

    pub fn new() -> Self {
        Self { known: vec![(0, 0); Self::SLOTS] }
    }

    /// What a `class` or `id` says.
    fn flags(&mut self, value: &str) -> Flags {
        let hash = xxh3_64(value.as_bytes()).max(1);
        let slot = &mut self.known[hash as usize % Self::SLOTS];
        if slot.0 != hash {
            *slot = (hash, of_names(value));
        }
        slot.1
    }
}

/// What an attribute of an element says.
pub fn of_attribute(names: &mut Names, tag: Tag, name: &str, value: &str) -> Flags {
    match name.len() {
        // The `id` of a section is made of its heading's words.
        2 if name.eq_ignore_ascii_case("id") && tag != Tag::Section => of_element(tag, names.flags(value)),
        4 if name.eq_ignore_ascii_case("href") && tag == Tag::A => LINK,
        4 if name.eq_ignore_ascii_case("role") => of_role(value),
        5 if name.eq_ignore_ascii_case("class") => of_element(tag, names.flags(value)),
        5 if name.eq_ignore_ascii_case("style") => of_style(value),
        6 if name.eq_ignore_ascii_case("hidden") && !value.eq_ignore_ascii_case("until-found") => HIDDEN,
        11 if name.eq_ignore_ascii_case("aria-hidden") && value.trim().eq_ignore_ascii_case("true") => HIDDEN,
        _ => 0,
    }
}

/// Names of parts of a page mean nothing on a word in a line (`<span class="comment">` in highlighted code).
fn of_element(tag: Tag, flags: Flags) -> Flags {
    match tag {
        Tag::Html | Tag::Body | Tag::Main | Tag::Article => flags & CONTENT,
        tag if tag.is_inline() && tag != Tag::Other => flags & (ORNAMENT | FORMULA),
        _ => flags,
    }
}

fn of_role(value: &str) -> Flags {
    match value.trim() {
        "main" => MAIN,
        "navigation" | "banner" | "contentinfo" | "search" | "complementary" | "menu" | "menubar" | "toolbar"
        | "dialog" | "alertdialog" | "tooltip" => NOISE,
        "doc-toc" | "doc-pagelist" | "directory" => DOUBTFUL,
        "presentation" | "none" => LAYOUT,
        _ => 0,
    }
}

fn of_style(value: &str) -> Flags {
    let hides = |property: &str, hidden: &str| {
        value.split(';').filter_map(|part| part.split_once(':')).any(|(name, value)| {
            name.trim().eq_ignore_ascii_case(property)
                && value.trim().get(..hidden.len()).is_some_and(|start| start.eq_ignore_ascii_case(hidden))
        })
    };
    if hides("display", "none") || hides("visibility", "hidden") { HIDDEN } else { 0 }
}

/// What a list of names says, all of them together.
fn of_names(value: &str) -> Flags {
    let lower = value.to_ascii_lowercase();
    let mut flags = 0;
    for (name, original) in lower.split_ascii_whitespace().zip(value.split_ascii_whitespace()) {
        flags |= WHOLE.get(name).copied().unwrap_or_else(|| of_name(name, original));
    }
    flags
}

/// What a name says by its words, which end where a sign or a capital letter stands: `page-header`, `pageHeader`.
fn of_name(name: &str, original: &str) -> Flags {
    let bytes = original.as_bytes();
    let mut flags = 0;
    let mut start = 0;
    for end in 0..=bytes.len() {
        let border = end == bytes.len()
            || !bytes[end].is_ascii_alphanumeric()
            || end > 0 && bytes[end].is_ascii_uppercase() && bytes[end - 1].is_ascii_lowercase();
        if !border {
            continue;
        }
        let word = name.get(start..end).unwrap_or_default();
        let meaning = of_word(word);
        if meaning == NEGATION && start == 0 && end < bytes.len() {
            return 0;
        }
        flags |= meaning & !NEGATION;
        start = end + usize::from(end < bytes.len() && !bytes[end].is_ascii_alphanumeric());
    }
    flags
}

fn of_word(word: &str) -> Flags {
    if word.len() < 2 {
        return 0;
    }
    WORDS.get(word).copied().unwrap_or(if is_navigation(word) { NOISE } else { 0 })
}

/// Words made of others: `navheader`, `docnav`, `sidebarright`, `pagefooter`.
fn is_navigation(word: &str) -> bool {
    word.len() > 4 && (word.starts_with("nav") || word.ends_with("nav") || word.starts_with("breadcrumb"))
        || word.len() > 6 && (word.contains("sidebar") || word.ends_with("footer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_part_of_the_page_is() {
        for (value, flags) in [
            ("navheader", NOISE),
            ("docnav", NOISE),
            ("page-footer dark", NOISE),
            ("leftSidebar", NOISE),
            ("section-header", DOUBTFUL),
            ("comments", COMMENTS),
            ("entry-content", CONTENT),
            ("has-sidebar", 0),
            ("headerlink", ORNAMENT),
            ("para", 0),
            ("a-b_c", 0),
            ("新闻", 0),
            ("", 0),
        ] {
            assert_eq!(of_names(value), flags, "{value}");
        }
    }

    #[test]
    fn hidden_elements_are_seen() {
        let mut names = Names::new();
        for (name, value, flags) in [
            ("hidden", "", HIDDEN),
            ("aria-hidden", "true", HIDDEN),
            ("aria-hidden", "false", 0),
            ("style", "color: red; DISPLAY:none !important", HIDDEN),
            ("style", "visibility:hidden", HIDDEN),
            ("style", "display: block", 0),
        ] {
            assert_eq!(of_attribute(&mut names, Tag::Div, name, value), flags, "{name}={value}");
        }
    }
}
