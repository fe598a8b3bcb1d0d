//! Addresses of the Internet Protocol, version 6.

use std::net::Ipv6Addr;

use super::fake::Chance;
use super::rule::{Anchor, Rule, Span, rule};
use super::text::{Text, is_word};

/// The rule.
pub const IPV6: Rule =
    rule!("ipv6", "IPV6", "IPv6 addresses of the ranges that are in use", Anchor::Byte(b":", find), fake);

/// The longest way to write one.
const MAX_BYTES: usize = 45;

fn is_part(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || byte == b':' || byte == b'.'
}

/// Called at each colon; only the first one of an address finds it.
fn find(text: &Text<'_>, at: usize) -> Option<Span> {
    let group = text.run_back(at, 5, |b| b.is_ascii_hexdigit());
    let start = at - group;
    let outside = text.before(start);
    if group > 4 || is_word(outside) || outside == b':' || outside == b'.' {
        return None;
    }
    let length = text.run(start, MAX_BYTES + 2, is_part);
    // A full stop or a colon behind it belongs to the sentence.
    let run = text.whole.get(start..start + length)?;
    let run = run.trim_end_matches('.');
    let run = if run.ends_with(':') && !run.ends_with("::") { &run[..run.len() - 1] } else { run };
    let end = start + run.len();
    if run.len() > MAX_BYTES || run.bytes().filter(|b| *b == b':').count() < 2 || text.joined_after(end) {
        return None;
    }
    let address: Ipv6Addr = run.parse().ok()?;
    is_in_use(address).then(|| Span::new(start, end))
}

/// Global, unique local, link-local and multicast addresses, those that stand for IPv4: what IANA has given out. Others, like
/// `a::b`, are a program's path.
fn is_in_use(address: Ipv6Addr) -> bool {
    matches!(
        address.segments(),
        [0x2000..=0x3FFF | 0xFC00..=0xFDFF | 0xFE80..=0xFEBF | 0xFF00..=0xFF0F, ..]
            | [0x64, 0xFF9B, ..]
            | [0, 0, 0, 0, 0, 0xFFFF, _, _]
    )
}

/// In the range that RFC 3849 keeps for documentation.
fn fake(_: &str, chance: &mut Chance) -> String {
    let mut part = || 1 + chance.below(0xFFFF);
    format!("2001:db8:{:x}:{:x}::{:x}:{:x}", part(), part(), part(), part())
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn addresses_are_found_however_they_are_written() {
        for address in ["2001:db8::1", "fe80::1ff:fe23:4567:890a", "2001:0DB8:0:0:0:FF00:42:8329", "::ffff:192.0.2.1"] {
            for (before, after) in
                [("at ", "."), ("[", "]:443"), ("ping ", ": 64 bytes"), ("地址为", "。"), ("", "/64")]
            {
                let text = format!("{before}{address}{after}");
                assert_eq!(found("ipv6", &text), [address], "{text}");
            }
        }
    }

    #[test]
    fn times_paths_and_hardware_addresses_are_none() {
        for text in [
            "1:46:19",
            "std::vector",
            "a::b::c::d",
            "dead::beef",
            "00:1a:2b:3c:4d:5e",
            "::1",
            "a::b",
            "37:20-26",
            "2001:db8",
            "1:2:3:4:5:6:7:8:9",
            "Face::new",
            "20211:db8::1",
        ] {
            assert!(found("ipv6", text).is_empty(), "{text}");
        }
    }
}
