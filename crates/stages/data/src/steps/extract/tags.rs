//! The elements that mean something to the extractor, and what they mean.

/// A name of up to 16 bytes as a number, in lower case, so that names are told apart by comparing numbers.
const fn packed(name: &[u8]) -> u128 {
    let mut key = 0;
    let mut i = 0;
    while i < name.len() {
        key = key << 8 | (name[i] | 0x20) as u128;
        i += 1;
    }
    key
}

macro_rules! tags {
    ($($name:ident $text:literal,)*) => {
        /// An element's name; [`Tag::Other`] stands for all that are not in the list, [`Tag::Text`] for a text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Tag { Text, Other, $($name,)* }

        #[expect(non_upper_case_globals, reason = "named as the elements they stand for")]
        mod key {
            $(pub const $name: u128 = super::packed($text.as_bytes());)*
        }

        impl Tag {
            /// The element of that name, in whatever case.
            pub fn of(name: &[u8]) -> Self {
                if name.len() > 16 {
                    return Self::Other;
                }
                match packed(name) {
                    $(key::$name => Self::$name,)*
                    _ => Self::Other,
                }
            }
        }

        /// How many kinds there are.
        pub const TAGS: usize = [$($text,)*].len() + 2;
    };
}

tags! {
    A "a", Abbr "abbr", Address "address", Annotation "annotation", Area "area", Article "article", Aside "aside",
    Audio "audio", B "b", Base "base", Blockquote "blockquote", Body "body", Br "br", Button "button",
    Canvas "canvas", Caption "caption", Center "center", Cite "cite", Code "code", Col "col", Colgroup "colgroup",
    Datalist "datalist", Dd "dd", Del "del", Details "details", Dialog "dialog", Dir "dir", Div "div", Dl "dl",
    Dt "dt", Em "em", Embed "embed", Fieldset "fieldset", Figcaption "figcaption", Figure "figure", Font "font",
    Footer "footer", Form "form", Frame "frame", Frameset "frameset", H1 "h1", H2 "h2", H3 "h3", H4 "h4", H5 "h5",
    H6 "h6", Head "head", Header "header", Hgroup "hgroup", Hr "hr", Html "html", I "i", Iframe "iframe", Img "img",
    Input "input", Ins "ins", Kbd "kbd", Label "label", Legend "legend", Li "li", Link "link", Main "main",
    Map "map", Math "math", Menu "menu", Meta "meta", Nav "nav", Noembed "noembed", Noframes "noframes",
    Noscript "noscript", Object "object", Ol "ol", Optgroup "optgroup", Option "option", Output "output", P "p",
    Param "param", Plaintext "plaintext", Pre "pre", Progress "progress", Rp "rp", Rt "rt", Ruby "ruby", S "s",
    Samp "samp", Script "script", Search "search", Section "section", Select "select", Small "small",
    Source "source", Span "span", Strike "strike", Strong "strong", Style "style", Sub "sub", Summary "summary",
    Sup "sup", Svg "svg", Table "table", Tbody "tbody", Td "td", Template "template", Textarea "textarea",
    Tfoot "tfoot", Th "th", Thead "thead", Time "time", Title "title", Tr "tr", Track "track", Tt "tt", U "u",
    Ul "ul", Var "var", Video "video", Wbr "wbr", Xmp "xmp",
}

impl Tag {
    /// Has no content and no end tag.
    pub fn is_void(self) -> bool {
        use Tag::*;
        matches!(
            self,
            Area | Base | Br | Col | Embed | Frame | Hr | Img | Input | Link | Meta | Param | Source | Track | Wbr
        )
    }

    /// Its content is text whatever it looks like, up to its end tag.
    pub fn is_raw(self) -> bool {
        use Tag::*;
        matches!(self, Iframe | Noembed | Noframes | Plaintext | Script | Style | Textarea | Title | Xmp)
    }

    /// Nothing inside is shown as text of the page: programs, alternatives, pictures, controls.
    pub fn is_never_content(self) -> bool {
        use Tag::*;
        matches!(
            self,
            Audio
                | Button
                | Canvas
                | Datalist
                | Dialog
                | Frameset
                | Head
                | Iframe
                | Input
                | Map
                | Noembed
                | Noframes
                | Noscript
                | Object
                | Option
                | Optgroup
                | Progress
                | Rp
                | Rt
                | Script
                | Select
                | Style
                | Svg
                | Template
                | Textarea
                | Title
                | Video
        )
    }

    /// Stands in a line of text and does not begin a new one.
    pub fn is_inline(self) -> bool {
        use Tag::*;
        matches!(
            self,
            Text | Other
                | A
                | Abbr
                | Annotation
                | B
                | Br
                | Cite
                | Code
                | Del
                | Em
                | Font
                | I
                | Img
                | Ins
                | Kbd
                | Label
                | Math
                | Output
                | Ruby
                | Rp
                | Rt
                | S
                | Samp
                | Small
                | Span
                | Strike
                | Strong
                | Sub
                | Sup
                | Time
                | Tt
                | U
                | Var
                | Wbr
        ) || self.is_void() && self != Hr
    }

    /// May stand in the head of a page; anything else ends it.
    pub fn is_of_head(self) -> bool {
        use Tag::*;
        matches!(self, Base | Link | Meta | Noscript | Script | Style | Template | Title)
    }

    /// The number of a heading.
    pub fn heading(self) -> Option<usize> {
        (Tag::H1 as u8..=Tag::H6 as u8).contains(&(self as u8)).then(|| (self as u8 - Tag::H1 as u8) as usize + 1)
    }

    /// A part of a table that a cell's or row's end cannot be looked for beyond.
    pub fn is_cell_border(self) -> bool {
        matches!(self, Tag::Td | Tag::Th | Tag::Caption | Tag::Table | Tag::Html | Tag::Template)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_nothing_else_is() {
        for (name, tag) in [("div", Tag::Div), ("DIV", Tag::Div), ("BlockQuote", Tag::Blockquote), ("h3", Tag::H3)] {
            assert_eq!(Tag::of(name.as_bytes()), tag);
        }
        for name in ["", "di", "divv", "my-element", "aaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert_eq!(Tag::of(name.as_bytes()), Tag::Other, "{name}");
        }
    }

    #[test]
    fn headings_have_numbers() {
        assert_eq!(Tag::H1.heading(), Some(1));
        assert_eq!(Tag::H6.heading(), Some(6));
        assert_eq!(Tag::Hr.heading(), None);
        assert_eq!(Tag::Head.heading(), None);
    }
}
