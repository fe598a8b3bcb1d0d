//! Sentencepiece's table of replaced characters: a double array of bytes and the texts it points to. The library that
//! applies it trusts it; here everything that can be reached in it is looked at first.

use cupola_artifact::{Error, Result};

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Refuses a table that points outside of itself.
pub(crate) fn check(table: &[u8]) -> Result<()> {
    let damaged = || Error::failed("its table of replaced characters (precompiled_charsmap) is damaged");
    let word = |at: usize| table.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let count = word(0).ok_or_else(damaged)? / 4;
    let texts = table.get(4 + 4 * count..).and_then(|texts| std::str::from_utf8(texts).ok()).ok_or_else(damaged)?;
    let unit = |at: usize| if at < count { word(4 + 4 * at) } else { None };
    let offset = |unit: usize| (unit >> 10) << ((unit & 1 << 9) >> 6);
    let mut seen = vec![false; count];
    let mut open = vec![offset(unit(0).ok_or_else(damaged)?)];
    while let Some(base) = open.pop() {
        for byte in 1..=255 {
            let at = base ^ byte;
            let here = unit(at).ok_or_else(damaged)?;
            if here & (1 << 31 | 0xff) != byte || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let child = at ^ offset(here);
            if here >> 8 & 1 == 1 {
                let value = unit(child).ok_or_else(damaged)? & ((1 << 31) - 1);
                if !texts.is_char_boundary(value) {
                    return Err(damaged());
                }
            }
            open.push(child);
        }
    }
    Ok(())
}

/// Base64 with padding (RFC 4648).
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// The bytes of a text in base64; `None` where it is none.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        word = word << 6 | LETTERS.iter().position(|&l| l == letter)? as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_goes_both_ways() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(to_base64(text.as_bytes()), coded);
            assert_eq!(from_base64(coded).as_deref(), Some(text.as_bytes()));
        }
        assert_eq!(from_base64("Z*=="), None);
    }

    #[test]
    fn a_table_that_points_outside_is_refused() {
        // Four units; the root's children begin at 0, which leaves no room for all bytes.
        let table: Vec<u8> = [16u32, 0, 0, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert!(check(&table).is_err());
        assert!(check(&[]).is_err());
        assert!(check(&[255; 8]).is_err());
        // 256 units that lead nowhere.
        let table: Vec<u8> = std::iter::once(1024u32).chain([0; 256]).flat_map(u32::to_le_bytes).collect();
        assert!(check(&table).is_ok());
    }
}
