//! The attributes of a start tag, read where they stand.

use memchr::memchr;

/// Reads a tag's attributes one by one; names and values are as they stand in the source, references not decoded.
pub struct Attributes<'a> {
    source: &'a str,
    at: usize,
    quotes: Quotes,
    /// Where the `>` of the tag stands, once the attributes are read; none where the source ends before.
    pub end: Option<usize>,
    /// The tag ends in `/>`.
    pub slash: bool,
}

/// Which quotation marks are known not to come any more, so that a page full of unclosed ones is read once.
#[derive(Clone, Copy, Default)]
pub struct Quotes {
    no_double: bool,
    no_single: bool,
}

impl<'a> Attributes<'a> {
    /// From behind the tag's name.
    pub fn new(source: &'a str, at: usize, quotes: Quotes) -> Self {
        Self { source, at, quotes, end: None, slash: false }
    }

    /// What was learnt about quotation marks, for the next tag.
    pub fn quotes(&self) -> Quotes {
        self.quotes
    }

    fn skip_space(&mut self) {
        let bytes = self.source.as_bytes();
        while bytes.get(self.at).is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn skip_to(&mut self, ends: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        let bytes = self.source.as_bytes();
        while bytes.get(self.at).is_some_and(|&b| !ends(b)) {
            self.at += 1;
        }
        self.source.get(start..self.at).unwrap_or_default()
    }

    fn value(&mut self) -> &'a str {
        let bytes = self.source.as_bytes();
        if let Some(&quote @ (b'"' | b'\'')) = bytes.get(self.at) {
            let gone = if quote == b'"' { &mut self.quotes.no_double } else { &mut self.quotes.no_single };
            if !*gone {
                let start = self.at + 1;
                if let Some(length) = memchr(quote, &bytes[start..]) {
                    self.at = start + length + 1;
                    return self.source.get(start..start + length).unwrap_or_default();
                }
                *gone = true;
            }
        }
        self.skip_to(|b| b == b'>' || b.is_ascii_whitespace())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.end.is_some() {
            return None;
        }
        let bytes = self.source.as_bytes();
        while bytes.get(self.at).is_some_and(|&b| b == b'/' || b.is_ascii_whitespace()) {
            self.slash = bytes[self.at] == b'/';
            self.at += 1;
        }
        if bytes.get(self.at)? == &b'>' {
            self.end = Some(self.at);
            return None;
        }
        let start = self.at;
        // A name may begin with `=`, says the standard.
        self.at += 1;
        self.skip_to(|b| matches!(b, b'=' | b'>' | b'/') || b.is_ascii_whitespace());
        let name = self.source.get(start..self.at).unwrap_or_default();
        self.skip_space();
        if bytes.get(self.at) != Some(&b'=') {
            self.slash = false;
            return Some((name, ""));
        }
        self.at += 1;
        self.skip_space();
        Some((name, self.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> (Vec<(&str, &str)>, Option<usize>, bool) {
        let mut attributes = Attributes::new(source, 0, Quotes::default());
        let all = attributes.by_ref().collect();
        (all, attributes.end, attributes.slash)
    }

    #[test]
    fn attributes_are_read_in_every_form() {
        let (all, end, slash) = read(r#" a="1 > 0" b='"' c = d e/f  g=h/ i>x"#);
        assert_eq!(all, [("a", "1 > 0"), ("b", "\""), ("c", "d"), ("e", ""), ("f", ""), ("g", "h/"), ("i", "")]);
        assert_eq!((end, slash), (Some(34), false));
        assert!(read(" id='x' />").2 && read("/>").2 && !read(" href=x/>").2);
    }

    #[test]
    fn a_tag_that_is_cut_off_has_no_end() {
        for source in ["", " a", " a=", " a='x", " a=\"x y", "/", " é"] {
            assert_eq!(read(source).1, None, "{source}");
        }
        assert_eq!(read(" a=\"x>y").0, [("a", "\"x")]);
    }
}
