//! A site as a polite crawler treats it: one request at a time with a pause between them, and only what robots.txt allows.

use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use cupola_artifact::{Result, rfc3339};
use flate2::read::MultiGzDecoder;
use serde_json::json;
use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode};
use url::Url;

use super::journal::{Outcome, Site, Visit};
use super::page::{Page, Wishes, plain, sitemap, text_of};
use super::robots::{self, Robots};
use super::{CrawlSource, MAX_REDIRECTS};
use crate::collect::fetch::{may_succeed_later, retry_after, tls};

/// A robots.txt is asked for again after so long (RFC 9309, 2.4).
const ROBOTS_AGE: Duration = Duration::from_secs(24 * 3600);

/// How often a request is repeated that may succeed later.
const REPETITIONS: u32 = 2;

/// The longest pause that a site may ask for before a request is repeated, seconds.
const LONGEST_PAUSE: f64 = 120.0;

/// A site that fails so often in a row is not asked again.
const FAILURES: u32 = 10;

/// Sitemaps that are read of a site.
const MAX_SITEMAPS: usize = 50;

/// The largest sitemap, unpacked, bytes (sitemaps.org).
const MAX_SITEMAP_BYTES: u64 = 50 << 20;

/// Addresses that are taken from a site's sitemaps.
const MAX_SITEMAP_ADDRESSES: usize = 500_000;

/// What all sites of a crawl share.
pub struct Visitor<'a> {
    agent: Agent,
    /// The crawl's settings.
    pub settings: &'a CrawlSource,
    /// The product token of its name.
    pub token: String,
    /// The pause before the first repetition, seconds.
    pub pause: f64,
}

/// A site.
pub struct Host {
    origin: String,
    robots: Option<(Robots, Instant)>,
    next: Instant,
    failures: u32,
}

/// An answer, its body unpacked.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// `None` where it is larger than allowed, or of no use.
    body: Option<Vec<u8>>,
}

impl<'a> Visitor<'a> {
    /// Gets ready.
    pub fn new(settings: &'a CrawlSource, pause: f64) -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Each address on the way is asked for as any other: within the rate, and if robots.txt allows it.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(Duration::from_secs_f64(settings.timeout)))
            .accept("text/html, application/xhtml+xml, text/plain;q=0.9, */*;q=0.1")
            .accept_encoding("gzip")
            .user_agent(settings.user_agent.as_str())
            .tls_config(tls()?)
            .build();
        let token = robots::product(&settings.user_agent).to_owned();
        Ok(Self { agent: config.new_agent(), settings, token, pause })
    }

    /// Asks once; `wanted` tells by the headers whether the body is of use.
    fn ask(&self, url: &str, max_bytes: u64, wanted: impl Fn(&HeaderMap) -> bool) -> Result<Answer, String> {
        let response = self.agent.get(url).call().map_err(|e| e.to_string())?;
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() || !wanted(&parts.headers) {
            return Ok(Answer { status: parts.status, headers: parts.headers, body: None });
        }
        let packed = parts.headers.get("content-encoding").is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"gzip"));
        let raw = body.into_reader().take(max_bytes + 1);
        let mut bytes = Vec::new();
        let read = if packed {
            MultiGzDecoder::new(raw).take(max_bytes + 1).read_to_end(&mut bytes)
        } else {
            let mut raw = raw;
            raw.read_to_end(&mut bytes)
        };
        read.map_err(|e| e.to_string())?;
        let body = (bytes.len() as u64 <= max_bytes).then_some(bytes);
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

impl Host {
    /// A site that was not asked for anything yet.
    pub fn new(origin: String) -> Self {
        Self { origin, robots: None, next: Instant::now(), failures: 0 }
    }

    /// Its scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Waits for the pause to be over, and asks, again if that may help.
    fn ask(
        &mut self,
        visitor: &Visitor<'_>,
        url: &str,
        max_bytes: u64,
        wanted: impl Fn(&HeaderMap) -> bool,
    ) -> Result<Answer, String> {
        let mut failures = 0;
        loop {
            std::thread::sleep(self.next.saturating_duration_since(Instant::now()));
            let delay = self.robots.as_ref().and_then(|(robots, _)| robots.delay).unwrap_or_default();
            self.next = Instant::now() + delay.max(Duration::from_secs_f64(1.0 / visitor.settings.rate));
            let answer = visitor.ask(url, max_bytes, &wanted)?;
            if !may_succeed_later(answer.status) || failures == REPETITIONS {
                return Ok(answer);
            }
            let pause = retry_after(&answer.headers).unwrap_or(visitor.pause * f64::from(1_u32 << failures));
            if pause > LONGEST_PAUSE {
                return Ok(answer);
            }
            self.next = self.next.max(Instant::now() + Duration::from_secs_f64(pause));
            failures += 1;
        }
    }

    /// What robots.txt says, asked for anew when it is a day old.
    fn robots(&mut self, visitor: &Visitor<'_>) -> &Robots {
        let fresh = self.robots.take().filter(|(_, since)| since.elapsed() < ROBOTS_AGE);
        let now = match fresh {
            Some(known) => known,
            None => (self.read_robots(visitor), Instant::now()),
        };
        &self.robots.insert(now).0
    }

    fn read_robots(&mut self, visitor: &Visitor<'_>) -> Robots {
        let mut url = format!("{}/robots.txt", self.origin);
        for _ in 0..=MAX_REDIRECTS {
            let Ok(answer) = self.ask(visitor, &url, robots::MAX_BYTES, |_| true) else {
                return Robots::disallow_all();
            };
            match answer.status {
                // Of one that is too large nothing is known.
                status if status.is_success() => {
                    return answer.body.map_or_else(Robots::disallow_all, |body| Robots::parse(&body, &visitor.token));
                }
                status if status.is_redirection() => match location(&answer.headers, &url) {
                    Some(to) => url = to,
                    None => return Robots::allow_all(),
                },
                // "Too many requests" is no statement about a missing file.
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    return Robots::disallow_all();
                }
                _ => return Robots::allow_all(),
            }
        }
        // RFC 9309, 2.3.1.2: after five hops it may be taken for missing.
        Robots::allow_all()
    }

    /// The addresses in the site's sitemaps.
    pub fn site(&mut self, visitor: &Visitor<'_>) -> Site {
        let mut site = Site { origin: self.origin.clone(), sitemap: Vec::new() };
        if !visitor.settings.sitemaps {
            return site;
        }
        let usual = format!("{}/sitemap.xml", self.origin);
        let robots = self.robots(visitor);
        let mut maps = robots.sitemaps.clone();
        if maps.is_empty() && robots.allows("/sitemap.xml") {
            maps.push(usual);
        }
        let mut at = 0;
        while at < maps.len().min(MAX_SITEMAPS) && site.sitemap.len() < MAX_SITEMAP_ADDRESSES {
            let map = maps[at].clone();
            at += 1;
            // A sitemap elsewhere would be asked for without that site's consent.
            if Url::parse(&map).ok().map(|url| url.origin().ascii_serialization()).as_ref() != Some(&self.origin) {
                continue;
            }
            let Ok(Answer { body: Some(body), .. }) = self.ask(visitor, &map, MAX_SITEMAP_BYTES, |_| true) else {
                continue;
            };
            let (pages, further) = sitemap(&unpacked(body));
            let links = pages.iter().filter_map(|page| plain(Url::parse(page).ok()?)).map(String::from);
            site.sitemap.extend(links.take(MAX_SITEMAP_ADDRESSES - site.sitemap.len()));
            maps.extend(further.into_iter().take(MAX_SITEMAPS));
        }
        site
    }

    /// Asks for a page. With what came of it the page as a line of JSON, if it is to be kept.
    pub fn visit(&mut self, visitor: &Visitor<'_>, url: &Url) -> (Visit, Option<Vec<u8>>) {
        let mut visit = Visit {
            url: url.to_string(),
            outcome: Outcome::GivenUp,
            status: None,
            why: None,
            to: None,
            canonical: None,
            links: Vec::new(),
            page: None,
        };
        if self.failures >= FAILURES {
            return (visit, None);
        }
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        if !self.robots(visitor).allows(path) {
            visit.outcome = Outcome::Disallowed;
            return (visit, None);
        }
        let asked = SystemTime::now();
        let answer = self.ask(visitor, url.as_str(), visitor.settings.max_page_bytes, |headers| {
            let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            is_text(content_type(headers)) && length.is_none_or(|length| length <= visitor.settings.max_page_bytes)
        });
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                self.failures += 1;
                (visit.outcome, visit.why) = (Outcome::Failed, Some(why));
                return (visit, None);
            }
        };
        visit.status = Some(answer.status.as_u16());
        self.failures = if may_succeed_later(answer.status) { self.failures + 1 } else { 0 };
        let kind = content_type(&answer.headers);
        let body = match (answer.status, answer.body) {
            (status, _) if status.is_redirection() => {
                visit.to = location(&answer.headers, url.as_str());
                visit.outcome = if visit.to.is_some() { Outcome::Redirect } else { Outcome::Refused };
                return (visit, None);
            }
            (status, _) if may_succeed_later(status) => {
                visit.outcome = Outcome::Failed;
                return (visit, None);
            }
            (status, _) if !status.is_success() => {
                visit.outcome = Outcome::Refused;
                return (visit, None);
            }
            (_, None) => {
                visit.outcome = if is_text(kind) { Outcome::TooLarge } else { Outcome::OtherType };
                return (visit, None);
            }
            (_, Some(body)) => body,
        };
        let text = text_of(&body, kind);
        let html = !kind.to_ascii_lowercase().starts_with("text/plain");
        let mut page = if html { Page::read(&text, url, &visitor.token) } else { Page::default() };
        let header = Wishes::of_headers(&answer.headers, &visitor.token);
        let (noindex, nofollow) = (header.noindex || page.wishes.noindex, header.nofollow || page.wishes.nofollow);
        if !nofollow {
            visit.links = std::mem::take(&mut page.links);
        }
        visit.canonical = page.canonical.filter(|canonical| *canonical != visit.url);
        if noindex {
            visit.outcome = Outcome::Noindex;
            return (visit, None);
        }
        visit.outcome = Outcome::Kept;
        let mut record = json!({
            "id": visit.url,
            "url": visit.url,
            (if html { "html" } else { "text" }): text,
            "date": rfc3339(asked),
            "license": page.license,
            "content_type": kind,
        });
        if let Some(canonical) = &visit.canonical {
            record["canonical"] = json!(canonical);
        }
        (visit, Some(format!("{record}\n").into_bytes()))
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether an answer is a page: HTML or plain text; one that does not say what it is, is none.
fn is_text(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(kind.as_str(), "text/html" | "application/xhtml+xml" | "text/plain")
}

/// Where an answer points.
fn location(headers: &HeaderMap, from: &str) -> Option<String> {
    let to = headers.get("location")?.to_str().ok()?;
    plain(Url::parse(from).ok()?.join(to).ok()?).map(String::from)
}

/// A sitemap's text, which may be packed.
fn unpacked(body: Vec<u8>) -> String {
    if !body.starts_with(&[0x1F, 0x8B]) {
        return String::from_utf8_lossy(&body).into_owned();
    }
    let mut text = Vec::new();
    // Of a packed one that is broken or too large what was read so far is used.
    let _ = MultiGzDecoder::new(body.as_slice()).take(MAX_SITEMAP_BYTES).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
