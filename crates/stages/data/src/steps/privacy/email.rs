//! E-mail addresses.

use super::fake::Chance;
use super::rule::{Anchor, Rule, Span, rule};
use super::text::Text;

/// RFC 5321's limits in bytes.
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;
const MAX_LABEL: usize = 63;

/// What follows the last dot in the name of a picture at a given resolution, `logo@2x.png`, or of a source file.
const FILES: [&str; 10] = ["png", "jpg", "jpeg", "gif", "webp", "svg", "pdf", "js", "css", "html"];

/// The rule.
pub const EMAIL: Rule = rule!("email", "EMAIL", "e-mail addresses", Anchor::Byte(b"@", find), fake);

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._%+-'".contains(&byte)
}

fn find(text: &Text<'_>, at: usize) -> Option<Span> {
    let length = text.run_back(at, MAX_LOCAL + 1, is_local);
    if length > MAX_LOCAL {
        return None;
    }
    let mut start = at - length;
    // Two dots in a row are the end of something else.
    if let Some(dots) = text.whole.get(start..at)?.rfind("..") {
        start += dots + 2;
    }
    start += text.run(start, at - start, |b| b".-'%+".contains(&b));
    let local = &text.bytes[start..at];
    // `@user@host` is a handle, not a mailbox.
    if local.is_empty() || local.ends_with(b".") || text.before(start) == b'@' {
        return None;
    }
    let end = at + 1 + domain(text, at + 1)?;
    let is_remote = local == b"git" && text.at(end) == b':' && !text.at(end + 1).is_ascii_whitespace();
    (!is_remote).then(|| Span::new(start, end))
}

/// The length of the domain that begins here, without a full stop that ends the sentence.
fn domain(text: &Text<'_>, start: usize) -> Option<usize> {
    let length = text.run(start, MAX_DOMAIN + 1, |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let run = text.whole.get(start..start + length)?;
    let run = run.split("..").next()?.trim_end_matches(['.', '-']);
    let labels_are_fine = run
        .split('.')
        .all(|label| !label.is_empty() && label.len() <= MAX_LABEL && !label.starts_with('-') && !label.ends_with('-'));
    let (rest, last) = run.rsplit_once('.')?;
    let top_is_fine = last.len() >= 2
        && (last.bytes().all(|b| b.is_ascii_alphabetic()) || last.starts_with("xn--"))
        && !FILES.contains(&last.to_ascii_lowercase().as_str());
    let named = rest.bytes().any(|b| b.is_ascii_alphabetic()) || rest.len() > 2;
    let fits = run.len() <= MAX_DOMAIN && text.at(start + run.len()) != b'@' && text.at(start + run.len()) != b'_';
    (labels_are_fine && top_is_fine && named && fits).then_some(run.len())
}

/// At the domains of RFC 2606.
fn fake(_: &str, chance: &mut Chance) -> String {
    let domain = ["com", "net", "org"][chance.below(3) as usize];
    let name: String = (0..8).map(|_| chance.one_of(b"abcdefghijklmnopqrstuvwxyz")).collect();
    format!("{name}@example.{domain}")
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn addresses_end_where_the_sentence_does() {
        for (text, expected) in [
            ("Write to jo.smith+news@mail.example.org.", "jo.smith+news@mail.example.org"),
            ("<x_y@example.co.uk> wrote:", "x_y@example.co.uk"),
            ("mailto:a-b@example.net?subject=hi", "a-b@example.net"),
            ("发送到wang@corp.example.org，谢谢", "wang@corp.example.org"),
            ("and ...then@example.com", "then@example.com"),
        ] {
            assert_eq!(found("email", text), [expected], "{text}");
        }
    }

    #[test]
    fn handles_remotes_pictures_and_versions_are_none() {
        for text in [
            "root@localhost",
            "cc @alice and @bob",
            "5 @ $20 each",
            "icon@2x.png",
            "left-pad@1.3.0",
            "@me@social.example",
            "git clone git@github.example:me/repo.git",
            "git log @{upstream}..HEAD",
            "deploy@192.0.2.4",
            "a@b",
            "x@y..com",
        ] {
            assert!(found("email", text).is_empty(), "{text}");
        }
    }
}
