//! Where a text names pictures and recordings: Markdown's `![…](…)`, HTML's `<img>`, `<audio>` and `<source>`.

/// What is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A picture.
    Image,
    /// A recording.
    Audio,
}

/// All references of a text, in its order, each once.
pub fn references(text: &str) -> Vec<(Medium, String)> {
    let mut found: Vec<(usize, Medium, String)> = Vec::new();
    markdown(text, &mut found);
    html(text, &mut found);
    found.sort_by_key(|(at, _, _)| *at);
    let mut all: Vec<(Medium, String)> = Vec::new();
    for (_, medium, reference) in found {
        let new = !reference.is_empty() && !all.iter().any(|(_, known)| *known == reference);
        if new {
            all.push((medium, reference));
        }
    }
    all
}

/// The longest reference, bytes.
const LONGEST: usize = 4096;

fn markdown(text: &str, found: &mut Vec<(usize, Medium, String)>) {
    for (at, _) in text.match_indices("![") {
        let line = text[at..].lines().next().unwrap_or_default();
        let Some(target) = line.find("](").and_then(|end| line.get(end + 2..)) else { continue };
        let target = match target.strip_prefix('<').and_then(|inner| inner.split_once('>')) {
            Some((target, _)) => target,
            // What follows a blank is a title.
            None => target.split([')', ' ', '\t']).next().unwrap_or_default(),
        };
        if target.len() <= LONGEST {
            found.push((at, Medium::Image, target.to_owned()));
        }
    }
}

fn html(text: &str, found: &mut Vec<(usize, Medium, String)>) {
    let mut in_audio = false;
    for (at, _) in text.match_indices('<') {
        let rest = &text[at + 1..];
        let name_ends = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '/')).unwrap_or(rest.len());
        let name = rest[..name_ends].to_ascii_lowercase();
        let medium = match name.as_str() {
            "img" => Medium::Image,
            "audio" => Medium::Audio,
            "source" if in_audio => Medium::Audio,
            "/audio" => {
                in_audio = false;
                continue;
            }
            _ => continue,
        };
        in_audio |= name == "audio";
        let tag = tag(&rest[name_ends..]);
        // Pages that load pictures late name them elsewhere.
        let reference = ["data-src", "src"].into_iter().find_map(|name| attribute(tag, name));
        if let Some(reference) = reference.filter(|reference| reference.len() <= LONGEST) {
            found.push((at, medium, reference));
        }
    }
}

/// A tag's attributes: up to a `>` that stands in no quotes.
fn tag(rest: &str) -> &str {
    let mut quote = None;
    for (at, c) in rest.char_indices().take(1 << 16) {
        match (quote, c) {
            (None, '>') => return &rest[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    ""
}

/// The value of an attribute, with the entities that addresses have.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let lower = tag.to_ascii_lowercase();
    let is_it = |(at, _): &(usize, &str)| {
        lower[..*at].ends_with(|c: char| c.is_ascii_whitespace() || "\"'/".contains(c))
            && lower[at + name.len()..].trim_start().starts_with('=')
    };
    let (at, _) = lower.match_indices(name).find(is_it)?;
    let value = tag[at + name.len()..].trim_start().strip_prefix('=')?.trim_start();
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next()?,
        _ => value.split(|c: char| c.is_ascii_whitespace()).next()?,
    };
    Some(value.trim().replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        references(text).into_iter().map(|(medium, name)| format!("{medium:?} {name}")).collect()
    }

    #[test]
    fn pictures_and_recordings_are_found_in_order_and_once() {
        let markdown = "![A cat](img/cat.png \"title\") and ![](<a b.jpg>) ![no](\n![again](img/cat.png)";
        assert_eq!(found(markdown), ["Image img/cat.png", "Image a b.jpg"]);
        let html = "<IMG alt='a > b' SRC=\"x.png?a=1&amp;b=2\"><img data-src=late.webp src=blank.gif>\
                    <audio controls><source src='a.ogg' type='audio/ogg'></audio><source src=no.mp4><audio src=b.mp3>";
        assert_eq!(found(html), ["Image x.png?a=1&b=2", "Image late.webp", "Audio a.ogg", "Audio b.mp3"]);
    }

    #[test]
    fn broken_markup_ends() {
        for text in
            ["<img", "<img src", "<img src=", "<img src='", "<img src=\"a", "![", "![](", "![](<", "<audio <img src=é"]
        {
            let _ = references(text);
        }
        assert_eq!(found("<image src=a.png><imgsrc=b.png>"), [""; 0]);
        assert_eq!(found(&format!("![]({})", "a".repeat(5000))), [""; 0]);
    }
}
