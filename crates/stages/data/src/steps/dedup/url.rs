//! Documents from the same address.

use cupola_artifact::Result;
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::all_but_the_first;
use crate::step::{Across, Decision, Key, Keys, Kind, Notes, Place, Sketches, Verdict};

/// The step.
pub const URL_DUPLICATES: Kind = Kind::across::<UrlDuplicates>(
    "url_duplicates",
    "drops documents from the address of an earlier one, written in one way or another",
);

/// Addresses are compared without what seldom tells two pages apart: `http` or `https`, upper case in the host's name, the
/// scheme's own port, the order of the query's parameters, parameters that only follow visitors, the fragment (unless it starts with
/// `#!`), a slash at the end, and the way letters are escaped. Documents without an address are left alone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UrlDuplicates {
    /// The field that holds the address.
    pub field: String,
    /// Whether `www.` before the host's name makes no difference either. Default true.
    pub ignore_www: bool,
    /// Parameters of the query that do not count; a `*` at the end stands for any further letters. The default has those of
    /// the large advertising, mail and statistics services.
    pub ignore_parameters: Vec<String>,
}

const TRACKING: &[&str] = &[
    "utm_*",
    "gclid",
    "gclsrc",
    "gbraid",
    "wbraid",
    "dclid",
    "fbclid",
    "msclkid",
    "twclid",
    "ttclid",
    "yclid",
    "igshid",
    "igsh",
    "mc_cid",
    "mc_eid",
    "_ga",
    "_gl",
    "_hsenc",
    "_hsmi",
    "mkt_tok",
    "oly_anon_id",
    "oly_enc_id",
    "vero_id",
    "sessionid",
    "phpsessid",
    "jsessionid",
];

impl Default for UrlDuplicates {
    fn default() -> Self {
        let ignore_parameters = TRACKING.iter().map(|name| (*name).to_owned()).collect();
        Self { field: "url".into(), ignore_www: true, ignore_parameters }
    }
}

impl Across for UrlDuplicates {
    fn keys(&self, document: &Document, place: Place, keys: &mut Keys) {
        let Some(url) = document.field(&self.field).map(str::trim).filter(|url| !url.is_empty()) else { return };
        let hash = xxh3_128(self.canonical(url).as_bytes());
        keys.push(Key { hash: (hash >> 64) as u64, check: hash as u64, place, part: 0 });
    }

    fn group(&self, group: &[Key], _: &dyn Sketches, decisions: &mut Vec<Decision>) -> Result<()> {
        all_but_the_first(group, decisions);
        Ok(())
    }

    fn apply(&self, _: &mut Document, _: &[Decision], _: &mut Notes) -> Verdict {
        Verdict::Drop("url_duplicate")
    }
}

impl UrlDuplicates {
    /// The one way of writing an address that stands for all others.
    fn canonical(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let scheme = scheme.to_ascii_lowercase();
        let web = ["http", "https"].contains(&scheme.as_str());
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let mut canonical = if web { String::new() } else { format!("{scheme}://") };
        canonical.push_str(&self.host(authority, web));
        canonical.push_str(unescaped(path).trim_end_matches('/'));
        let mut parameters: Vec<String> =
            query.split('&').filter(|parameter| self.counts(parameter)).map(unescaped).collect();
        parameters.sort_unstable();
        for (i, parameter) in parameters.iter().enumerate() {
            canonical.push(if i == 0 { '?' } else { '&' });
            canonical.push_str(parameter);
        }
        if fragment.starts_with('!') {
            canonical.push('#');
            canonical.push_str(fragment);
        }
        canonical
    }

    fn host(&self, authority: &str, web: bool) -> String {
        let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
        let mut host = host.to_lowercase();
        if web {
            for port in [":80", ":443", ":"] {
                host.truncate(host.strip_suffix(port).map_or(host.len(), str::len));
            }
        }
        let name = host.trim_end_matches('.');
        let name = if self.ignore_www { name.strip_prefix("www.").unwrap_or(name) } else { name };
        if user.is_empty() { name.to_owned() } else { format!("{user}@{name}") }
    }

    fn counts(&self, parameter: &str) -> bool {
        let name = parameter.split('=').next().unwrap_or_default().to_ascii_lowercase();
        let is = |ignored: &String| match ignored.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *ignored,
        };
        !parameter.is_empty() && !self.ignore_parameters.iter().any(is)
    }
}

/// Escapes of what needs none (RFC 3986, 2.3: letters, digits and `-._~`) resolved, others in upper case.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
            Some(byte) => out.push_str(&format!("%{byte:02X}")),
            None => out.push('%'),
        }
        rest = &rest[at + if code.is_some() { 3 } else { 1 }..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::super::memory::{documents, run};
    use super::*;

    #[test]
    fn one_page_has_one_address_however_it_is_written() {
        let step = UrlDuplicates::default();
        for url in [
            "https://Example.com/a/b/?x=1&y=2",
            "http://www.example.com:80/a/b?y=2&utm_source=mail&x=1#top",
            "HTTPS://example.com.:443/%61/b/?x=1&y=2&fbclid=Iw&&",
            "example.com/a/b?x=1&y=%32",
        ] {
            assert_eq!(step.canonical(url), "example.com/a/b?x=1&y=2", "{url}");
        }
    }

    #[test]
    fn different_pages_have_different_addresses() {
        let step = UrlDuplicates::default();
        let urls = [
            "http://example.com",
            "http://example.com:8080",
            "http://example.com/A",
            "http://example.com/a",
            "http://example.com/a?x=1",
            "http://example.com/a?x=2",
            "http://example.com/#!a",
            "ftp://example.com",
            "http://sub.example.com",
            "http://me@example.com",
            "http://example.com/%2F",
            "http://example.com/%zz%",
        ];
        let mut canonical: Vec<String> = urls.iter().map(|url| step.canonical(url)).collect();
        assert_eq!(canonical[10], "example.com/%2F");
        assert_eq!(canonical[11], "example.com/%zz%");
        canonical.sort_unstable();
        canonical.dedup();
        assert_eq!(canonical.len(), urls.len());
    }

    #[test]
    fn the_first_document_of_an_address_stays_and_so_do_those_without() {
        let mut all = documents(&["a", "b", "c", "d", "e"]);
        for (i, url) in [(0, "http://x.org/p"), (2, "https://x.org/p/"), (3, " ")] {
            all[i].fields.insert("url".into(), url.into());
        }
        let left: Vec<bool> = run(&UrlDuplicates::default(), &all).iter().map(Option::is_some).collect();
        assert_eq!(left, [true, true, false, true, true]);
    }
}
