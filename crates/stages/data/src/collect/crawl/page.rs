//! What a page says about itself: where it leads, whether it wants to be kept, under which licence it is.

use std::collections::HashSet;

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use ureq::http::HeaderMap;
use url::Url;

use crate::collect::markup::{Tag, decoded, tags};

/// No more links of a page are followed.
const MAX_LINKS: usize = 2000;

/// The longest address that is followed, bytes.
pub const MAX_ADDRESS: usize = 2048;

/// How far into a page its encoding is looked for, bytes (the HTML standard's prescan).
const PRESCAN: usize = 1024;

/// Directives of `X-Robots-Tag` that have a colon themselves, so that what is before it is no crawler's name.
const WITH_VALUES: &[&str] = &["unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"];

/// What an address leads to that is no page, by the end of its path.
const NO_PAGES: &[&str] = &[
    "7z", "aac", "apk", "avi", "avif", "bin", "bmp", "bz2", "css", "csv", "deb", "dmg", "doc", "docx", "eot", "epub",
    "exe", "flac", "gif", "gz", "ico", "iso", "jar", "jpeg", "jpg", "js", "json", "m4a", "mkv", "mov", "mp3", "mp4",
    "mpeg", "msi", "odp", "ods", "odt", "ogg", "ogv", "otf", "pdf", "png", "ppt", "pptx", "ps", "rar", "rpm", "svg",
    "tar", "tgz", "tif", "tiff", "ttf", "wav", "webm", "webp", "wma", "wmv", "woff", "woff2", "xls", "xlsx", "xz",
    "zip", "zst",
];

/// What is allowed to be done with a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// It must not be kept.
    pub noindex: bool,
    /// Its links must not be followed.
    pub nofollow: bool,
}

/// A page, read.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    /// Addresses it leads to, each once, in order.
    pub links: Vec<String>,
    /// The address that it calls its own.
    pub canonical: Option<String>,
    /// What it wants.
    pub wishes: Wishes,
    /// The licence it names: a short name where it is Creative Commons, else what it says.
    pub license: Option<String>,
}

impl Wishes {
    /// What the headers of an answer ask for; `token` is the crawler's product token.
    pub fn of_headers(headers: &HeaderMap, token: &str) -> Self {
        let mut wishes = Self::default();
        for value in headers.get_all("x-robots-tag").iter().filter_map(|value| value.to_str().ok()) {
            let directives = match value.split_once(':') {
                Some((name, rest)) if !name.contains(',') && !WITH_VALUES.contains(&name.trim()) => {
                    if !name.trim().eq_ignore_ascii_case(token) {
                        continue;
                    }
                    rest
                }
                _ => value,
            };
            wishes.add(directives);
        }
        wishes.reserve(headers.get("tdm-reservation").and_then(|value| value.to_str().ok()));
        wishes
    }

    fn add(&mut self, directives: &str) {
        for directive in directives.split(',').map(|word| word.trim().to_ascii_lowercase()) {
            // `noai` has no standard, but its meaning is plain.
            self.noindex |= matches!(directive.as_str(), "noindex" | "none" | "noai");
            self.nofollow |= matches!(directive.as_str(), "nofollow" | "none");
        }
    }

    /// The reservation of rights against text and data mining (TDM Reservation Protocol, W3C community group 2024).
    fn reserve(&mut self, value: Option<&str>) {
        self.noindex |= value.is_some_and(|value| value.trim() == "1");
    }
}

impl Page {
    /// Reads the page at an address.
    pub fn read(html: &str, url: &Url, token: &str) -> Self {
        let (mut page, mut base, mut seen) = (Self::default(), None, HashSet::new());
        let (mut said, mut linked) = (None, Vec::new());
        for tag in tags(html).filter(|tag| !tag.closing) {
            let base_now = base.as_ref().unwrap_or(url);
            if tag.is("base") && base.is_none() {
                base = tag.attribute("href").and_then(|href| url.join(href.trim()).ok());
            } else if tag.is("meta") {
                page.meta(&tag, token, &mut said);
            } else if ["a", "area", "link"].iter().any(|name| tag.is(name)) {
                let Some(address) = tag.attribute("href").and_then(|href| base_now.join(href.trim()).ok()) else {
                    continue;
                };
                let has = |relation: &str| {
                    tag.attribute("rel")
                        .is_some_and(|rel| rel.split_whitespace().any(|r| r.eq_ignore_ascii_case(relation)))
                };
                if has("license") && page.license.is_none() {
                    page.license = Some(license_of(address.as_str()));
                }
                if tag.is("link") {
                    if has("canonical") && page.canonical.is_none() {
                        page.canonical = plain(address).map(String::from);
                    }
                } else {
                    if let Some(license) = creative_commons(address.as_str())
                        && !linked.contains(&license)
                    {
                        linked.push(license);
                    }
                    if !has("nofollow")
                        && page.links.len() < MAX_LINKS
                        && let Some(link) = plain(address).filter(may_be_page)
                        && seen.insert(link.to_string())
                    {
                        page.links.push(link.into());
                    }
                }
            }
        }
        // Links to several licences speak of parts of the page, not of the whole.
        let alone = if linked.len() == 1 { linked.pop() } else { None };
        page.license = page.license.or(said).or(alone);
        page
    }

    fn meta(&mut self, tag: &Tag<'_>, token: &str, license: &mut Option<String>) {
        let Some(name) = tag.attribute("name").or_else(|| tag.attribute("property")) else { return };
        let content = tag.attribute("content").unwrap_or_default();
        let name = name.trim().to_ascii_lowercase();
        if name == "robots" || name.eq_ignore_ascii_case(token) {
            self.wishes.add(&content);
        } else if name == "tdm-reservation" {
            self.wishes.reserve(Some(&content));
        } else if ["license", "dc.rights", "dcterms.rights", "dcterms.license", "dc.rights.license"]
            .contains(&name.as_str())
            && license.is_none()
            && !content.trim().is_empty()
        {
            *license = Some(license_of(content.trim()));
        }
    }
}

/// An address as it is asked for: without its fragment; `None` for what is no page on the web.
pub fn plain(mut url: Url) -> Option<Url> {
    url.set_fragment(None);
    if url.query() == Some("") {
        url.set_query(None);
    }
    let web = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
    (web && url.username().is_empty() && url.password().is_none() && url.as_str().len() <= MAX_ADDRESS).then_some(url)
}

/// Whether an address may lead to a page: by its end, and by the signs of a trap (parts of the path that come again and
/// again, endless parameters).
pub fn may_be_page(url: &Url) -> bool {
    let parts: Vec<&str> =
        url.path_segments().map(|parts| parts.filter(|p| !p.is_empty()).collect()).unwrap_or_default();
    let extension = parts.last().and_then(|name| Some(name.rsplit_once('.')?.1.to_ascii_lowercase()));
    if extension.is_some_and(|extension| NO_PAGES.contains(&extension.as_str())) || parts.len() > 16 {
        return false;
    }
    let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let again = |part: &&str| !numeric(part) && parts.iter().filter(|other| *other == part).count() > 2;
    !parts.iter().any(again) && url.query_pairs().count() <= 8
}

/// A short name for a licence of Creative Commons, else what was said.
fn license_of(said: &str) -> String {
    creative_commons(said).unwrap_or_else(|| said.chars().take(300).collect())
}

/// `CC-BY-SA-4.0` for `https://creativecommons.org/licenses/by-sa/4.0/deed.de`.
fn creative_commons(address: &str) -> Option<String> {
    let lower = address.to_ascii_lowercase();
    let path = lower.split_once("creativecommons.org/")?.1;
    let mut parts = path.split(['/', '?', '#']);
    let version = |part: Option<&str>| part.filter(|v| v.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned);
    match parts.next()? {
        "licenses" => {
            let name = parts
                .next()
                .filter(|name| name.starts_with("by") || name.starts_with("nc") || name.starts_with("sa"))?;
            let end = version(parts.next()).map_or(String::new(), |version| format!("-{version}"));
            Some(format!("CC-{}{end}", name.to_ascii_uppercase()))
        }
        "publicdomain" => match parts.next()? {
            "zero" => Some("CC0-1.0".into()),
            "mark" => Some("CC-PDM-1.0".into()),
            _ => None,
        },
        _ => None,
    }
}

/// A page's text, in the encoding that its byte order mark, the server or the page itself names; UTF-8 if the bytes are
/// that, else Windows-1252.
pub fn text_of(bytes: &[u8], content_type: &str) -> String {
    let named = charset(content_type).or_else(|| prescan(&bytes[..bytes.len().min(PRESCAN)]));
    let encoding = match named {
        Some(encoding) => encoding,
        None if std::str::from_utf8(bytes).is_ok() => UTF_8,
        None => WINDOWS_1252,
    };
    // A byte order mark goes before everything else.
    encoding.decode(bytes).0.into_owned()
}

fn charset(text: &str) -> Option<&'static Encoding> {
    let lower = text.to_ascii_lowercase();
    let label = lower.split_once("charset")?.1.trim_start().strip_prefix('=')?.trim_start();
    let label = label.trim_start_matches(['"', '\'']);
    let end =
        label.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';' | '>' | '/')).unwrap_or(label.len());
    Encoding::for_label(&label.as_bytes()[..end])
}

fn prescan(head: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(head);
    tags(&head).filter(|tag| tag.is("meta")).find_map(|tag| match tag.attribute("charset") {
        Some(label) => Encoding::for_label(label.as_bytes()),
        None => charset(&tag.attribute("content")?),
    })
}

/// The addresses in a sitemap, and those of further sitemaps, in order; also of one that is a list of lines.
pub fn sitemap(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut pages, mut maps) = (Vec::new(), Vec::new());
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if !text.starts_with('<') {
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("http"));
        return (lines.map(str::to_owned).collect(), maps);
    }
    let (mut inside_map, mut loc) = (false, None);
    for tag in tags(text) {
        if tag.is("sitemap") {
            inside_map = !tag.closing;
        } else if tag.is("loc") && !tag.closing {
            loc = Some(tag.end);
        } else if tag.is("loc")
            && let Some(start) = loc.take()
        {
            let inner = text[start..tag.start].trim();
            let inner = inner.strip_prefix("<![CDATA[").and_then(|t| t.strip_suffix("]]>")).unwrap_or(inner);
            let address = decoded(inner.trim()).into_owned();
            if inside_map { maps.push(address) } else { pages.push(address) }
        }
    }
    (pages, maps)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn read(html: &str) -> Page {
        Page::read(html, &Url::parse("https://here.org/a/b.html?x=1").unwrap(), "cupola")
    }

    #[test]
    fn links_are_resolved_once_each_and_in_order() {
        let page = read(
            "<a href='c#top'><a href='./c'><a href=/d?><a href=mailto:a@b><a href='javascript:x'><a href=p.PDF>\
             <a rel='ugc nofollow' href=no><a href=//there.org/e><area href=f><link href=style><a href='http://u:p@h/'>",
        );
        let links = ["https://here.org/a/c", "https://here.org/d", "https://there.org/e", "https://here.org/a/f"];
        assert_eq!(page.links, links);
        assert_eq!(read("<base href=/z/><a href=y><link rel=Canonical href=x>").links, ["https://here.org/z/y"]);
        assert_eq!(read("<link rel=Canonical href='/x#y'>").canonical.unwrap(), "https://here.org/x");
    }

    #[test]
    fn what_a_page_wants_is_read_from_meta_and_headers() {
        let wishes = |noindex, nofollow| Wishes { noindex, nofollow };
        assert_eq!(read("<META NAME=Robots CONTENT='NoIndex, follow'>").wishes, wishes(true, false));
        assert_eq!(read("<meta name=cupola content=none>").wishes, wishes(true, true));
        assert_eq!(read("<meta name=otherbot content=none>").wishes, wishes(false, false));
        assert_eq!(read("<meta name=tdm-reservation content=1>").wishes, wishes(true, false));
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-robots-tag", value.parse().unwrap());
            Wishes::of_headers(&headers, "cupola")
        };
        assert_eq!(headers("noindex, nofollow"), wishes(true, true));
        assert_eq!(headers("otherbot: noindex"), wishes(false, false));
        assert_eq!(headers("Cupola: nofollow"), wishes(false, true));
        assert_eq!(headers("unavailable_after: 25 Jun 2030, noindex"), wishes(true, false));
    }

    #[test]
    fn licences_are_found_where_pages_name_them() {
        let license = |html: &str| read(html).license;
        assert_eq!(
            license("<a rel=license href='//creativecommons.org/licenses/by-sa/4.0/deed.de'>").unwrap(),
            "CC-BY-SA-4.0"
        );
        assert_eq!(license("<link rel='license' href='/terms'>").unwrap(), "https://here.org/terms");
        assert_eq!(license("<meta name='DC.rights' content='CC BY 4.0'>").unwrap(), "CC BY 4.0");
        assert_eq!(license("<a href='https://creativecommons.org/publicdomain/zero/1.0/'>").unwrap(), "CC0-1.0");
        let two = "<a href='https://creativecommons.org/licenses/by/4.0/'><a href='https://creativecommons.org/licenses/by-nc/4.0/'>";
        assert_eq!(license(two), None, "two licences are licences of parts");
        assert_eq!(license("<a href='https://creativecommons.org/'>"), None);
    }

    #[test]
    fn text_is_read_in_the_encoding_it_names() {
        assert_eq!(text_of(b"caf\xe9", "text/html; charset=ISO-8859-1"), "café");
        assert_eq!(text_of("<meta charset='utf-8'>é".as_bytes(), "text/html"), "<meta charset='utf-8'>é");
        let koi = b"<meta http-equiv=content-type content='text/html; charset=koi8-r'>\xc1";
        assert!(text_of(koi, "text/html").ends_with('а'));
        assert_eq!(text_of(b"caf\xe9", ""), "café");
        assert_eq!(text_of(b"\xef\xbb\xbfa", "text/html; charset=latin1"), "a");
    }

    #[test]
    fn traps_are_seen_by_their_addresses() {
        for (address, fine) in [
            ("https://h/2024/11/24/24/x", true),
            ("https://h/a/b/a/b/a/b", false),
            ("https://h/?a&b&c&d&e&f&g&h&i", false),
            ("https://h/v1.2", true),
            ("https://h/x.tar.gz", false),
        ] {
            assert_eq!(may_be_page(&Url::parse(address).unwrap()), fine, "{address}");
        }
    }

    #[test]
    fn sitemaps_and_indexes_are_told_apart() {
        let map = "<?xml version='1.0'?><urlset><url><loc> https://h/a?b&amp;c </loc><image:loc>https://h/no</image:loc>\
                   </url><url><loc><![CDATA[https://h/d]]></loc></url></urlset>";
        assert_eq!(sitemap(map), (vec!["https://h/a?b&c".into(), "https://h/d".into()], vec![]));
        let index = "<sitemapindex><sitemap><loc>https://h/1.xml</loc></sitemap></sitemapindex>";
        assert_eq!(sitemap(index), (vec![], vec!["https://h/1.xml".into()]));
        assert_eq!(sitemap("https://h/a\r\n# no\nhttps://h/b\n").0, ["https://h/a", "https://h/b"]);
    }
}
