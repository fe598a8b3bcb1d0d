//! Keys and tokens of known services.

use super::fake::Chance;
use super::rule::{Anchor, Rule, Span, rule};
use super::text::{Text, is_word};

/// The rule.
pub const KEY: Rule =
    rule!("key", "API_KEY", "keys and tokens of known services, private keys, JSON web tokens", Anchor::Prefix, fake);

/// Of what a key consists after its beginning.
#[derive(Clone, Copy)]
enum Body {
    /// Letters and digits.
    Alphanumeric,
    /// Those, `-` and `_`.
    Url,
    /// Capital letters and digits.
    Upper,
    /// Hexadecimal digits in lower case.
    Hex,
    /// `Url`, in parts with a dot between them.
    Dotted,
    /// Everything up to the line that ends a PEM block.
    Pem,
    /// The name of a header's scheme, and what follows it.
    Bearer,
}

/// A kind of key: how it begins, its body, and the body's least and largest length.
pub struct Service {
    prefix: &'static str,
    body: Body,
    least: usize,
    most: usize,
}

const fn key(prefix: &'static str, body: Body, least: usize, most: usize) -> Service {
    Service { prefix, body, least, most }
}

/// Where a length is not published: long enough for any that was seen.
const ANY: usize = 400;
/// The largest PEM block that is looked through, in bytes.
const MAX_PEM: usize = 16_384;

/// By the services' own documentation.
pub const SERVICES: &[Service] = &[
    // AWS: access keys, temporary ones, users, roles and others.
    key("AKIA", Body::Upper, 16, 16),
    key("ASIA", Body::Upper, 16, 16),
    key("ABIA", Body::Upper, 16, 16),
    key("ACCA", Body::Upper, 16, 16),
    // GitHub: personal, OAuth, user-to-server, server-to-server, refresh, fine-grained.
    key("ghp_", Body::Alphanumeric, 36, 251),
    key("gho_", Body::Alphanumeric, 36, 251),
    key("ghu_", Body::Alphanumeric, 36, 251),
    key("ghs_", Body::Alphanumeric, 36, 251),
    key("ghr_", Body::Alphanumeric, 36, 251),
    key("github_pat_", Body::Url, 82, 255),
    // GitLab: personal, deploy, runner, trigger, feed.
    key("glpat-", Body::Dotted, 20, 300),
    key("gldt-", Body::Url, 20, 64),
    key("glrt-", Body::Dotted, 20, 300),
    key("glptt-", Body::Hex, 40, 40),
    key("glft-", Body::Url, 20, 64),
    // Slack: bot, user, app, refresh, workspace; web hooks.
    key("xoxb-", Body::Url, 20, 255),
    key("xoxp-", Body::Url, 20, 255),
    key("xoxa-", Body::Url, 20, 255),
    key("xoxr-", Body::Url, 20, 255),
    key("xoxs-", Body::Url, 20, 255),
    key("xapp-", Body::Url, 20, 255),
    // Stripe: secret, restricted, web hook.
    key("sk_live_", Body::Alphanumeric, 16, 255),
    key("sk_test_", Body::Alphanumeric, 16, 255),
    key("rk_live_", Body::Alphanumeric, 16, 255),
    key("rk_test_", Body::Alphanumeric, 16, 255),
    key("whsec_", Body::Alphanumeric, 24, 255),
    // Google: API keys, OAuth secrets and tokens.
    key("AIza", Body::Url, 35, 35),
    key("GOCSPX-", Body::Url, 28, 28),
    key("ya29.", Body::Url, 40, ANY),
    // OpenAI and Anthropic; others whose keys begin with `sk-`.
    key("sk-proj-", Body::Url, 20, ANY),
    key("sk-svcacct-", Body::Url, 20, ANY),
    key("sk-admin-", Body::Url, 20, ANY),
    key("sk-ant-", Body::Url, 20, ANY),
    key("sk-or-", Body::Url, 20, ANY),
    key("sk-", Body::Alphanumeric, 20, 128),
    // Hugging Face, Groq, xAI, Replicate, Perplexity.
    key("hf_", Body::Alphanumeric, 34, 40),
    key("gsk_", Body::Alphanumeric, 40, 64),
    key("xai-", Body::Alphanumeric, 60, 100),
    key("r8_", Body::Alphanumeric, 37, 40),
    key("pplx-", Body::Alphanumeric, 40, 64),
    // Package registries: npm, PyPI, RubyGems, crates.io.
    key("npm_", Body::Alphanumeric, 36, 36),
    key("pypi-", Body::Url, 50, ANY),
    key("rubygems_", Body::Hex, 48, 48),
    key("cio", Body::Alphanumeric, 32, 32),
    // Mail and messages: SendGrid, Twilio, Mailgun, Mailchimp's Mandrill.
    key("SG.", Body::Dotted, 60, 70),
    key("SK", Body::Hex, 32, 32),
    key("AC", Body::Hex, 32, 32),
    key("key-", Body::Hex, 32, 32),
    // Hosting and tools: DigitalOcean, Shopify, Linear, Notion, Databricks, Docker, HashiCorp Vault, Doppler, Figma, Square.
    key("dop_v1_", Body::Hex, 64, 64),
    key("shpat_", Body::Alphanumeric, 32, 32),
    key("shpss_", Body::Alphanumeric, 32, 32),
    key("lin_api_", Body::Alphanumeric, 32, 48),
    key("ntn_", Body::Alphanumeric, 40, 50),
    key("dapi", Body::Hex, 32, 34),
    key("dckr_pat_", Body::Url, 27, 36),
    key("hvs.", Body::Url, 24, 200),
    key("dp.pt.", Body::Alphanumeric, 40, 44),
    key("figd_", Body::Url, 40, 64),
    key("sq0csp-", Body::Url, 43, 43),
    key("EAAA", Body::Url, 60, 64),
    // JSON web tokens: `{"` in base64 twice.
    key("eyJ", Body::Dotted, 30, 4000),
    // HTTP's header.
    key("Bearer ", Body::Bearer, 24, ANY),
    key("-----BEGIN ", Body::Pem, 40, MAX_PEM),
];

/// The key of this service that begins here.
pub fn find(text: &Text<'_>, start: usize, service: &Service) -> Option<Span> {
    let body = start + service.prefix.len();
    match service.body {
        Body::Pem => return pem(text, start, body),
        _ if is_word(text.before(start)) || is_inside(text.before(start), service.body) => return None,
        _ => {}
    }
    let class = |byte: u8| is_inside(byte, service.body);
    let mut length = text.run(body, service.most + 1, class);
    // A dot at the end is the sentence's; a hyphen can be the key's.
    while length > 0 && text.at(body + length - 1) == b'.' {
        length -= 1;
    }
    if !(service.least..=service.most).contains(&length) || text.joined_after(body + length) {
        return None;
    }
    let value = &text.bytes[body..body + length];
    match (service.prefix, service.body) {
        ("eyJ", _) => is_jwt(value).then(|| Span::new(start, body + length)),
        (_, Body::Bearer) => is_random(value).then(|| Span::new(body, body + length)),
        ("sk-", _) | (_, Body::Dotted | Body::Url) => has_variety(value).then(|| Span::new(start, body + length)),
        _ => Some(Span::new(start, body + length)),
    }
}

fn is_inside(byte: u8, body: Body) -> bool {
    match body {
        Body::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
        Body::Hex => byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'),
        Body::Alphanumeric => byte.is_ascii_alphanumeric(),
        Body::Url => byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_',
        Body::Dotted | Body::Pem => byte.is_ascii_alphanumeric() || b"-_.".contains(&byte),
        Body::Bearer => byte.is_ascii_alphanumeric() || b"-_.+/=~".contains(&byte),
    }
}

/// Three parts, the second of which begins like the first or is encrypted.
fn is_jwt(value: &[u8]) -> bool {
    let parts: Vec<&[u8]> = value.split(|b| *b == b'.').collect();
    matches!(parts[..], [a, b, _, ..] if a.len() >= 10 && b.len() >= 10 && parts.len() <= 5)
}

/// From the line that begins a private key to the line that ends it.
fn pem(text: &Text<'_>, start: usize, body: usize) -> Option<Span> {
    let end = text.whole.floor_char_boundary((body + MAX_PEM).min(text.bytes.len()));
    let rest = text.whole.get(body..end)?;
    let line = rest.split('\n').next()?;
    let name = line.split("-----").next()?;
    if !name.ends_with("PRIVATE KEY") && !name.ends_with("PRIVATE KEY BLOCK") || name.len() > 40 {
        return None;
    }
    let last = format!("-----END {name}-----");
    // The next line of the kind has to be the one that ends it: so that what has only beginnings takes no longer.
    let head = name.len() + "-----".len();
    let at = head + rest.get(head..)?.find("-----")?;
    if !rest[at..].starts_with(&last) {
        return None;
    }
    Some(Span::new(start, body + at + last.len()))
}

/// Letters, and digits or capitals: words and numbers are no keys.
fn has_variety(value: &[u8]) -> bool {
    let some = |class: fn(&u8) -> bool| value.iter().any(class);
    some(u8::is_ascii_alphabetic) && (some(u8::is_ascii_digit) || some(u8::is_ascii_uppercase))
}

/// Bits per character of what was drawn from 16 and more different ones.
const MIN_ENTROPY: f64 = 3.0;

/// Whether it looks drawn by lot: letters and digits, many different ones, and no words in a row.
pub fn is_random(value: &[u8]) -> bool {
    let mut counts = [0_u32; 128];
    for byte in value {
        counts[usize::from(byte & 127)] += 1;
    }
    let total = value.len() as f64;
    let part = |count: &u32| f64::from(*count) / total;
    let entropy: f64 = counts.iter().filter(|count| **count > 0).map(|count| -part(count) * part(count).log2()).sum();
    let longest_word = value.split(|b| !b.is_ascii_lowercase()).map(<[u8]>::len).max().unwrap_or(0);
    let numbered = value.iter().filter(|b| b.is_ascii_digit()).count() >= 2;
    has_variety(value) && numbered && entropy >= MIN_ENTROPY && longest_word <= 8
}

/// The beginning up to the last of `-` and `_` in the first twelve characters stays, the rest is drawn anew.
fn fake(value: &str, chance: &mut Chance) -> String {
    if value.starts_with("-----BEGIN ") {
        return "-----BEGIN PRIVATE KEY-----\nEXAMPLE\n-----END PRIVATE KEY-----".to_owned();
    }
    let known = SERVICES.iter().map(|s| s.prefix).filter(|prefix| value.starts_with(prefix)).map(str::len).max();
    let kept = known.unwrap_or(0);
    let drawn = value[kept..].chars().map(|c| match c {
        '0'..='9' => chance.one_of(b"0123456789"),
        'a'..='f' => chance.one_of(b"abcdef"),
        'g'..='z' => chance.one_of(b"ghijklmnopqrstuvwxyz"),
        'A'..='Z' => chance.one_of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        other => other,
    });
    value[..kept].chars().chain(drawn).collect()
}

impl Service {
    /// How its keys begin.
    pub fn prefix(&self) -> &'static str {
        self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::SERVICES;
    use crate::steps::privacy::tests::found;

    /// A body of letters and digits.
    fn body(length: usize, alphabet: &str) -> String {
        alphabet.chars().cycle().step_by(7).take(length).collect()
    }

    const MIXED: &str = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYz";

    #[test]
    fn keys_of_each_known_service_are_found() {
        for (prefix, length, alphabet) in [
            ("AKIA", 16, "QWERTY234567ASDFG"),
            ("ghp_", 36, MIXED),
            ("github_pat_", 82, MIXED),
            ("glpat-", 20, MIXED),
            ("xoxb-", 40, MIXED),
            ("sk_live_", 24, MIXED),
            ("AIza", 35, MIXED),
            ("sk-proj-", 48, MIXED),
            ("sk-", 48, MIXED),
            ("sk-ant-api03-", 95, MIXED),
            ("hf_", 34, MIXED),
            ("npm_", 36, MIXED),
            ("pypi-", 60, MIXED),
            ("SK", 32, "0a1b2c3d4e5f9"),
            ("dop_v1_", 64, "0a1b2c3d4e5f9"),
            ("GOCSPX-", 28, MIXED),
            ("whsec_", 32, MIXED),
        ] {
            let key = format!("{prefix}{}", body(length, alphabet));
            for text in [
                format!("token='{key}' # x"),
                format!("密钥{key}已经"),
                format!("leaked {key}."),
                format!("Bearer {key}"),
            ] {
                assert_eq!(found("key", &text), [key.as_str()], "{text}");
            }
            for text in [
                format!("{key}{}", "Z9".repeat(200)),
                format!("a1{key}").replace('-', "_"),
                format!("{}!", &key[..prefix.len() + 8]),
            ] {
                assert!(found("key", &text).is_empty(), "{text}");
            }
        }
    }

    #[test]
    fn tokens_of_parts_and_blocks_of_lines_are_found_whole() {
        let jwt = format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{}", body(43, MIXED));
        assert_eq!(found("key", &format!("Cookie: t={jwt}; x")), [jwt.as_str()]);
        let sendgrid = format!("SG.{}.{}", body(22, MIXED), body(43, MIXED));
        assert_eq!(found("key", &format!("\"{sendgrid}\"")), [sendgrid.as_str()]);
        let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----", body(64, MIXED));
        assert_eq!(found("key", &format!("x\n{pem}\n")), [pem.as_str()]);
        assert!(found("key", &pem.replace("PRIVATE", "PUBLIC")).is_empty());
    }

    #[test]
    fn a_key_may_end_in_a_hyphen() {
        let key = format!("AIza{}-", body(34, MIXED));
        assert_eq!(found("key", &format!("It was {key}.")), [key.as_str()]);
    }

    #[test]
    fn words_hashes_and_paths_are_none() {
        for text in [
            "risk-averse",
            "ask-me-anything-about-this-topic",
            "md5: 9f86d081884c7d659a2feaa0c55ad015",
            "hf_hub_download",
            "commit 0bfdd85db6ba8928475bf85eff286f1dec1c6636",
            "sk-learn-compatible-estimators-and-more",
            "AKIA",
            "Bearer token",
            "uuid f645016c-0e26-5a70-88ab-7776da20fdef",
            "npm_config_registry",
            "Bearer authentication_required_here",
        ] {
            assert!(found("key", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn beginnings_are_listed_once() {
        let mut prefixes: Vec<&str> = SERVICES.iter().map(|service| service.prefix).collect();
        prefixes.sort_unstable();
        assert!(prefixes.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
