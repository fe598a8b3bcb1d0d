//! Secrets by the name they are given to: `api_key = "…"`.

use super::fake::Chance;
use super::keys::is_random;
use super::rule::{Anchor, Rule, Span, rule};
use super::text::Text;

/// The rule.
pub const ASSIGNMENT: Rule = rule!(
    "secret",
    "SECRET",
    "random values that are given to a key, token, secret or password: `api_key = \"…\"`",
    Anchor::Byte(b"=:", find),
    fake
);

/// Parts of a name that tell of a secret.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "apikey", "secret", "token", "password", "passwd", "passphrase", "pwd", "accesskey", "privatekey", "authkey",
    "credential", "signingkey",
];
const MAX_NAME: usize = 48;
/// Shorter ones are found by guessing, and are words too often.
const MIN_VALUE: usize = 16;
const MAX_VALUE: usize = 512;

fn find(text: &Text<'_>, at: usize) -> Option<Span> {
    // `==`, `=>`, `::`, `:=` and `://` assign nothing by this byte.
    if b"=:>/".contains(&text.at(at + 1)) || b"=!<>:".contains(&text.before(at)) && text.before(at) != b':' {
        return None;
    }
    let spaces = text.run_back(at, 2, |b| b == b' ');
    let quoted = usize::from(b"\"'`".contains(&text.before(at - spaces)));
    let end = at - spaces - quoted;
    let length = text.run_back(end, MAX_NAME, |b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    let name = text.whole.get(end - length..end)?;
    if length < 3 || !is_secret(name) {
        return None;
    }
    let mut start = at + 1 + text.run(at + 1, 2, |b| b == b' ');
    start += text.run(start, 1, |b| b"\"'`".contains(&b));
    let length = text.run(start, MAX_VALUE + 1, |b| b.is_ascii_alphanumeric() || b"+/=_-.~!@#%^".contains(&b));
    let value = &text.bytes[start..start + length];
    let length = value.len() - value.iter().rev().take_while(|b| b".!".contains(b)).count();
    let value = &value[..length];
    ((MIN_VALUE..=MAX_VALUE).contains(&length) && is_random(value)).then(|| Span::new(start, start + length))
}

/// Whether the name, without its `_`, `-` and `.`, has a part that tells of a secret, or ends in `key` as a word.
fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let joined: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
    let last = lower.rsplit(['_', '-', '.']).next();
    let public = joined.contains("public") || joined.contains("primarykey") || joined.contains("foreignkey");
    !public && (last == Some("key") || NAMES.iter().any(|part| joined.contains(part)))
}

/// Drawn anew, character by character.
fn fake(value: &str, chance: &mut Chance) -> String {
    value
        .chars()
        .map(|c| match c {
            '0'..='9' => chance.one_of(b"0123456789"),
            'a'..='f' => chance.one_of(b"abcdef"),
            'g'..='z' => chance.one_of(b"ghijklmnopqrstuvwxyz"),
            'A'..='Z' => chance.one_of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn random_values_of_secrets_are_found() {
        let value = "wJ4lrXUtnF7EMIK7MDENG0bPxRfiCY";
        for text in [
            format!("api_key={value}"),
            format!("\"apiKey\": \"{value}\","),
            format!("AWS_SECRET_ACCESS_KEY = '{value}'"),
            format!("password: {value}"),
            format!("export X_TOKEN={value}\n"),
            format!("?key={value}&x=1"),
        ] {
            assert_eq!(found("secret", &text), [value], "{text}");
        }
    }

    #[test]
    fn words_names_and_other_values_are_none() {
        for text in [
            "password: correct horse battery",
            "token = get_token_from_store()",
            "key = sorted_by_first_name_2",
            "monkey=aB3dE5fG7hJ9kL1mN2pQ4",
            "The key: understanding 1984",
            "id=wJ4lrXUtnF7EMIK7MDENG0bPxRfiCY",
            "public_key=wJ4lrXUtnF7EMIK7MDENG0bPxRfiCY",
            "token == wJ4lrXUtnF7EMIK7MDENG0bPxRfiCY",
            "secret=hunter2",
            "password = ${VAULT_PASSWORD_2024_X}",
        ] {
            assert!(found("secret", text).is_empty(), "{text}");
        }
    }
}
