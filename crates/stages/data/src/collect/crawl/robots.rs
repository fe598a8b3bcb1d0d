//! What a site's robots.txt allows (RFC 9309).

use std::time::Duration;

/// No more of a robots.txt is read, bytes; the RFC asks for at least 500 KiB.
pub const MAX_BYTES: u64 = 512 << 10;

/// What a robots.txt says to one crawler.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Robots {
    rules: Vec<Rule>,
    /// The pause between two requests, if it asks for one.
    pub delay: Option<Duration>,
    /// Addresses of sitemaps.
    pub sitemaps: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    allow: bool,
    pattern: Vec<u8>,
}

impl Robots {
    /// Nothing is forbidden: the site has no robots.txt.
    pub fn allow_all() -> Self {
        Self::default()
    }

    /// Everything is forbidden: whether there is a robots.txt could not be found out.
    pub fn disallow_all() -> Self {
        Self { rules: vec![Rule { allow: false, pattern: b"/".to_vec() }], ..Self::default() }
    }

    /// Reads a robots.txt for the crawler with this product token; the groups for it count, those for `*` if there is none.
    pub fn parse(text: &[u8], token: &str) -> Self {
        let text = String::from_utf8_lossy(text);
        let (mut own, mut all, mut found) = (Self::default(), Self::default(), false);
        let (mut for_own, mut for_all, mut in_rules) = (false, false, true);
        let mut sitemaps = Vec::new();
        for line in text.trim_start_matches('\u{feff}').split(['\n', '\r']) {
            let line = line.split('#').next().unwrap_or_default();
            let Some((key, value)) = line.split_once(':') else { continue };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            match key.as_str() {
                "user-agent" => {
                    // Several in a row begin one group.
                    if std::mem::replace(&mut in_rules, false) {
                        (for_own, for_all) = (false, false);
                    }
                    for_all |= value == "*";
                    for_own |= product(value).eq_ignore_ascii_case(token) && !token.is_empty();
                    found |= for_own;
                }
                "allow" | "disallow" | "crawl-delay" => {
                    in_rules = true;
                    for (applies, robots) in [(for_own, &mut own), (for_all, &mut all)] {
                        if applies {
                            robots.rule(&key, value);
                        }
                    }
                }
                "sitemap" => sitemaps.push(value.to_owned()),
                _ => {}
            }
        }
        Self { sitemaps, ..if found { own } else { all } }
    }

    fn rule(&mut self, key: &str, value: &str) {
        if key == "crawl-delay" {
            let seconds = value.parse::<f64>().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
            self.delay = self.delay.max(seconds.map(Duration::from_secs_f64));
        } else if !value.is_empty() {
            self.rules.push(Rule { allow: key == "allow", pattern: normalized(value.as_bytes()) });
        }
    }

    /// Whether a path with its query may be fetched: the longest rule that matches decides, and of two as long the one
    /// that allows.
    pub fn allows(&self, path: &str) -> bool {
        if path == "/robots.txt" {
            return true;
        }
        let path = normalized(path.as_bytes());
        let matching = self.rules.iter().filter(|rule| matches(&rule.pattern, &path));
        matching.max_by_key(|rule| (rule.pattern.len(), rule.allow)).is_none_or(|rule| rule.allow)
    }
}

/// The product token at the start of a user agent's name: `cupola` of `cupola/1.0 (…)`.
pub fn product(agent: &str) -> &str {
    let end = agent.find(|c: char| !(c.is_ascii_alphabetic() || matches!(c, '-' | '_'))).unwrap_or(agent.len());
    &agent[..end]
}

/// A path in which every octet is written in one way: letters, digits and `-._~` as they are, and of the rest what is
/// outside ASCII, or was written so, as `%XX` with capitals.
fn normalized(path: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let escaped = match path[at] {
            b'%' => hex(path.get(at + 1)).zip(hex(path.get(at + 2))).map(|(high, low)| (high * 16 + low) as u8),
            _ => None,
        };
        let byte = escaped.unwrap_or(path[at]);
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if plain || escaped.is_none() && byte.is_ascii_graphic() {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        at += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

/// Whether a path begins with what a pattern says: `*` is any text, `$` at its end the path's end.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let (pattern, to_the_end) = match pattern.strip_suffix(b"$") {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    let (mut p, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p == pattern.len() && (!to_the_end || at == path.len()) {
            return true;
        }
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, at));
                p += 1;
            }
            Some(byte) if path.get(at) == Some(byte) => (p, at) = (p + 1, at + 1),
            // The last `*` takes one octet more.
            _ => match star {
                Some((star_p, taken)) if taken < path.len() => {
                    star = Some((star_p, taken + 1));
                    (p, at) = (star_p + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(robots: &str, path: &str) -> bool {
        Robots::parse(robots.as_bytes(), "cupola").allows(path)
    }

    #[test]
    fn the_longest_rule_decides_and_of_two_as_long_the_one_that_allows() {
        let robots = "User-agent: *\nDisallow: /\nAllow: /open/\nDisallow: /open/not\nAllow: /same\nDisallow: /same\n";
        assert!(!allowed(robots, "/"));
        assert!(allowed(robots, "/open/a"));
        assert!(!allowed(robots, "/open/not/b"));
        assert!(allowed(robots, "/same"));
        assert!(allowed(robots, "/robots.txt"));
    }

    #[test]
    fn the_group_for_the_crawler_counts_and_groups_for_it_add_up() {
        let robots = "user-agent: other\nuser-agent: CUPOLA/2.0 # both\ndisallow: /a\n\nUser-Agent: *\nDisallow: /\n\
                      sitemap: https://here/map.xml\nUSER-AGENT: cupola\nDisallow: /b\nCrawl-delay: 2.5\n";
        let read = Robots::parse(robots.as_bytes(), "cupola");
        assert!(!read.allows("/a") && !read.allows("/b") && read.allows("/c"));
        assert_eq!(read.delay, Some(Duration::from_millis(2500)));
        assert_eq!(read.sitemaps, ["https://here/map.xml"]);
        assert!(!Robots::parse(robots.as_bytes(), "another").allows("/c"));
        assert!(Robots::parse(b"User-agent: cupo\nDisallow: /", "cupola").allows("/c"));
    }

    #[test]
    fn wildcards_and_ends_match_as_the_rfc_says() {
        for (pattern, path, fits) in [
            ("/*.gif$", "/a/b.gif", true),
            ("/*.gif$", "/a/b.gif?x", false),
            ("/a*b*c", "/axxbyyc/d", true),
            ("/a*b*c", "/axxcyyb", false),
            ("/$", "/", true),
            ("/$", "/a", false),
            ("*", "/", true),
            ("/fish", "/fish.html", true),
            ("/fish", "/Fish", false),
        ] {
            assert_eq!(!allowed(&format!("User-agent: *\nDisallow: {pattern}"), path), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn octets_are_compared_however_they_are_written() {
        for (pattern, path) in
            [("/ツ", "/%E3%83%84"), ("/%e3%83%84", "/ツ"), ("/a%3cd", "/a%3Cd"), ("/%62ar", "/bar"), ("/bar", "/%62ar")]
        {
            assert!(!allowed(&format!("User-agent: *\nDisallow: {pattern}"), path), "{pattern} {path}");
        }
        assert!(allowed("User-agent: *\nDisallow: /a%2Fb", "/a/b"), "an escaped slash is no slash");
    }

    #[test]
    fn odd_files_forbid_nothing_by_accident() {
        for odd in ["", "Disallow: /", "User-agent: *\nDisallow:", "<html>", "User-agent\nDisallow /", "\u{feff}#x"] {
            assert!(allowed(odd, "/a"), "{odd}");
        }
        assert!(!allowed("\u{feff}User-agent: *\rDisallow: /a\r", "/a"));
        assert!(!Robots::disallow_all().allows("/a") && Robots::allow_all().allows("/a"));
        let slow = format!("User-agent: *\nDisallow: /{}$", "*a".repeat(1000));
        assert!(allowed(&slow, &format!("/{}", "a".repeat(900))));
    }
}
