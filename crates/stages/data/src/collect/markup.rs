//! The tags of an HTML or XML text, one after the other: enough for links, meta elements and sitemaps. Every byte is looked
//! at a fixed number of times, whatever the text is.

use std::borrow::Cow;

/// A tag.
#[derive(Clone, Copy, Debug)]
pub struct Tag<'a> {
    /// Its name as written.
    pub name: &'a str,
    /// Whether it is `</name>`.
    pub closing: bool,
    /// Where it starts in the text, bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    inside: &'a str,
}

/// The tags of a text; comments, declarations and the content of scripts are left out.
pub fn tags(text: &str) -> Tags<'_> {
    Tags { text, at: 0 }
}

/// What [`tags`] gives.
pub struct Tags<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        loop {
            let start = self.at + self.text.get(self.at..)?.find('<')?;
            let rest = &self.text[start..];
            let skipped = if rest.starts_with("<!--") {
                after(rest, "-->")
            } else if rest.starts_with("<![CDATA[") {
                after(rest, "]]>")
            } else if rest.starts_with("<!") || rest.starts_with("<?") {
                after(rest, ">")
            } else {
                let closing = rest.starts_with("</");
                let name_at = 1 + usize::from(closing);
                if !rest[name_at..].starts_with(|c: char| c.is_ascii_alphabetic()) {
                    self.at = start + 1;
                    continue;
                }
                let length = rest[name_at..].find(|c: char| c.is_whitespace() || matches!(c, '/' | '>'));
                let name = &rest[name_at..name_at + length?];
                let inside_at = name_at + name.len();
                let close = inside_at + end_of_tag(&rest[inside_at..])?;
                let tag = Tag { name, closing, start, end: start + close + 1, inside: &rest[inside_at..close] };
                self.at = tag.end;
                if !closing && ["script", "style", "textarea"].iter().any(|raw| tag.is(raw)) {
                    self.at = self.text.len() - end_of_raw(&self.text[tag.end..], name).len();
                }
                return Some(tag);
            };
            self.at = start + skipped?;
        }
    }
}

/// Where a text goes on after a mark.
fn after(text: &str, mark: &str) -> Option<usize> {
    text.find(mark).map(|at| at + mark.len())
}

/// Where the `>` of a tag is; one in quotes after `=` is not it.
fn end_of_tag(inside: &str) -> Option<usize> {
    let (mut quote, mut after_equals) = (None, false);
    for (at, byte) in inside.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') if after_equals => quote = Some(byte),
            _ => {}
        }
        after_equals = byte == b'=' || after_equals && byte.is_ascii_whitespace();
    }
    None
}

/// What follows the content of an element that holds no tags, from its closing tag on.
fn end_of_raw<'a>(text: &'a str, name: &str) -> &'a str {
    let mut rest = text;
    while let Some(at) = rest.find("</") {
        rest = &rest[at..];
        if rest.get(2..2 + name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            return rest;
        }
        rest = &rest[2..];
    }
    ""
}

impl<'a> Tag<'a> {
    /// Whether it has a name, in any case; a prefix belongs to it (`image:loc` is no `loc`).
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value of an attribute, decoded; the first where it is repeated.
    pub fn attribute(&self, name: &str) -> Option<Cow<'a, str>> {
        self.attributes().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| decoded(value))
    }

    /// Names and values as written.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.inside }
    }
}

/// What [`Tag::attributes`] gives.
pub struct Attributes<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if rest.is_empty() {
            return None;
        }
        // A name may begin with `=`.
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let length = rest[first..].find(|c: char| c.is_whitespace() || matches!(c, '/' | '=')).map(|i| i + first);
        let (name, rest) = rest.split_at(length.unwrap_or(rest.len()));
        let Some(value) = rest.trim_start().strip_prefix('=').map(str::trim_start) else {
            self.rest = rest;
            return Some((name, ""));
        };
        let (value, rest) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            _ => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
        };
        self.rest = rest;
        Some((name, value))
    }
}

/// A text with the five characters of XML and numbers written out.
pub fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(12).position(|byte| byte == b';');
        match end.and_then(|end| Some((character(&rest[1..end])?, end))) {
            Some((character, end)) => {
                out.push(character);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let digits = name.strip_prefix('#')?;
            let number = match digits.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => digits.parse().ok()?,
            };
            char::from_u32(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(html: &str) -> Vec<String> {
        tags(html).filter(|tag| tag.is("a")).filter_map(|tag| Some(tag.attribute("href")?.into_owned())).collect()
    }

    #[test]
    fn links_are_read_as_browsers_read_them() {
        let html = "<!-- <a href=no> --><script>'<a href=no>'</script><A HREF='a?b=1&amp;c=2' x>\
                    <a href=plain><a title=\"1 > 0\" href = \"b\"/><a\nhref=c\n>< a href=no><style><a href=no></STYLE>\
                    <a x='it''s' href=d><a href=e";
        assert_eq!(links(html), ["a?b=1&c=2", "plain", "b", "c", "d"]);
    }

    #[test]
    fn broken_markup_ends_quietly() {
        for html in ["<", "<a", "<a href=\"", "<!--", "<script>", "</", "<a b='>", "<é>", "&#xffffffff;<a href=&#0;>"]
        {
            let _ = links(html);
        }
        assert_eq!(decoded("&amp;&nope;&#x41;&#66;&"), "&&nope;AB&");
        let many = "<a href=\"".repeat(100_000);
        assert!(links(&many).len() < 2);
    }
}
