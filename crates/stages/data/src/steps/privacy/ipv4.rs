//! Addresses of the Internet Protocol, version 4.

use super::fake::Chance;
use super::rule::{Anchor, Rule, Span, rule};
use super::text::{Groups, Text};

/// The rule.
pub const IPV4: Rule = rule!("ipv4", "IPV4", "IPv4 addresses, not versions of four parts", Anchor::Number(find), fake);

/// Words that make four numbers a version or the number of a section.
#[rustfmt::skip]
const VERSIONS: &[&str] = &[
    "version", "versión", "versione", "versão", "verze", "wersja", "driver", "firmware", "build", "release",
    "revision", "treiber", "pilote", "controlador", "update", "upgrade", "patch", "section", "chapter", "clause",
    "abschnitt", "kapitel", "版本", "驱动", "バージョン", "верси",
];
/// Words that make them an address again.
#[rustfmt::skip]
const ADDRESSES: &[&str] = &[
    "ip", "address", "host", "server", "from", "adresse", "dirección", "client", "gateway", "ping", "dns", "地址",
    "服务器", "адрес", "subnet", "router",
];

fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let bounds = groups.bounds();
    if groups.len() < 4 || (0..3).any(|n| text.at(bounds[n].1) != b'.') {
        return None;
    }
    let (start, end) = (bounds[0].0, bounds[3].1);
    let part = |&(start, end): &(usize, usize)| {
        let part = &text.whole[start..end];
        (part.len() == 1 || !part.starts_with('0')).then(|| part.parse::<u8>().ok()).flatten()
    };
    let parts = [part(&bounds[0])?, part(&bounds[1])?, part(&bounds[2])?, part(&bounds[3])?];
    let goes_on = text.at(end) == b'.' && is_joined(text.at(end + 1));
    if names_nobody(parts) || goes_on || text.joined_before(start) || text.joined_after(end) || is_package(text, start)
    {
        return None;
    }
    let context = text.context(start);
    let version = context.last(VERSIONS);
    (version.is_none() || version < context.last(ADDRESSES)).then(|| Span::new(start, end))
}

fn is_joined(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// This machine, no machine, and masks.
fn names_nobody(parts: [u8; 4]) -> bool {
    matches!(parts, [0 | 127 | 255, ..])
}

/// `libfoo-1.2.3.4`, `foo==1.2.3.4`, `v 1.2.3.4`, `1.1.2.3.4`: part of a name, a requirement or a longer number.
fn is_package(text: &Text<'_>, start: usize) -> bool {
    match text.before(start) {
        b'.' => true,
        b'-' => start >= 2 && text.at(start - 2).is_ascii_alphabetic(),
        b'=' | b'>' | b'<' | b'^' | b'~' => {
            start >= 2 && (text.at(start - 1) != b'=' || b"=<>~!".contains(&text.at(start - 2)))
        }
        _ => false,
    }
}

/// In the ranges that RFC 5737 keeps for documentation.
fn fake(_: &str, chance: &mut Chance) -> String {
    let net = ["192.0.2", "198.51.100", "203.0.113"][chance.below(3) as usize];
    format!("{net}.{}", 1 + chance.below(254))
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn addresses_are_found_with_ports_and_in_urls() {
        for text in [
            "http://198.51.100.7:8080/x",
            "from 198.51.100.7 port 22",
            "user@198.51.100.7",
            "[198.51.100.7]",
            "地址是198.51.100.7，",
            "It is 198.51.100.7.",
            "host=198.51.100.7",
            "The update server at 198.51.100.7",
            "198.51.100.7/24",
        ] {
            assert_eq!(found("ipv4", text), ["198.51.100.7"], "{text}");
        }
        assert_eq!(found("ipv4", "203.0.113.4-203.0.113.9"), ["203.0.113.4", "203.0.113.9"]);
    }

    #[test]
    fn versions_and_numbers_out_of_range_are_none() {
        for text in [
            "Driver version 25.20.81.53 fixes",
            "build 10.0.190.7",
            "libx-1.2.3.4.tar.gz",
            "foo==1.2.3.4",
            "1.2.3.4.5",
            "256.1.1.1",
            "01.2.3.4",
            "127.0.0.1",
            "0.0.0.0",
            "v1.2.3.4",
            "See section 3.4.1.2",
            "1.2.3",
            "版本1.2.3.4",
        ] {
            assert!(found("ipv4", text).is_empty(), "{text}");
        }
    }
}
