//! Fetching a file over HTTP: goes on by range where it was cut off, repeats what may succeed later, and puts the file in
//! its place only when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cupola_artifact::{Context, Error, Result, create_dir, hash_file, human_bytes, rfc3339, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::Meter;
use super::cache::{Collected, Validator, modified_ns};

/// How often a request that brought nothing is repeated.
const REPETITIONS: u32 = 5;

/// The same where not even a connection came about.
const REPETITIONS_UNREACHED: u32 = 2;

/// The longest pause between two attempts, seconds; a server that asks for more is answered by giving up.
const LONGEST_PAUSE: f64 = 120.0;

/// A server that sends nothing for so long is taken for gone.
const SILENCE: Duration = Duration::from_secs(60);

/// The longest answer that is read into memory, bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// What asks for files.
pub struct Client {
    agent: Agent,
    pause: f64,
}

/// A file to be fetched.
pub struct Wanted<'a> {
    /// Its address.
    pub url: &'a str,
    /// `Authorization`, sent to this address's host only.
    pub token: Option<&'a str>,
    /// Where it goes.
    pub into: &'a Path,
    /// Its path below the source's folder.
    pub file: &'a str,
    /// The most bytes it may have.
    pub max_bytes: u64,
    /// What its SHA-256 must be.
    pub sha256: Option<&'a str>,
    /// What is there already, if it need not be fetched again unless it has changed.
    pub before: Option<Collected>,
}

/// What lies beside an unfinished file: of what it is the beginning.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Unfinished {
    url: String,
    validator: Validator,
}

/// How an attempt ended.
enum Attempt {
    /// The file is whole.
    Whole(Validator),
    /// The server says that it has not changed.
    Unchanged,
    /// It may succeed later: why, after what pause the server asks for it, and whether the server was reached.
    Again { error: Error, after: Option<f64>, reached: bool },
}

impl Client {
    /// A client that repeats after `pause` seconds, then twice that, and so on.
    pub fn new(pause: f64) -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(Some(SILENCE))
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(2 * SILENCE))
            .timeout_per_read(Some(SILENCE))
            // A file's own compression must reach the disk as it is.
            .accept_encoding("identity")
            .user_agent(concat!("cupola/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls()?)
            .build();
        Ok(Self { agent: config.new_agent(), pause })
    }

    /// Fetches a file.
    pub fn fetch(&self, wanted: &Wanted<'_>, meter: &Meter<'_>) -> Result<Collected> {
        if let Some(parent) = wanted.into.parent() {
            create_dir(parent)?;
        }
        let partial = Partial::of(wanted.into);
        if let Some(whole) = partial.whole_before(wanted)? {
            meter.add(whole.bytes);
            return Ok(whole);
        }
        let validator = self.until_whole(wanted, &partial, meter)?;
        let Some(validator) = validator else {
            return wanted.before.clone().ok_or_else(|| Error::failed("a server says that a new file is unchanged"));
        };
        let (sha256, bytes) = hash_file(&partial.file)?;
        if let Some(expected) = wanted.sha256
            && !sha256.eq_ignore_ascii_case(expected)
        {
            partial.remove()?;
            return Err(Error::failed(format!(
                "{} has the SHA-256 {sha256} ({bytes} bytes), but {expected} is expected",
                wanted.url
            ))
            .with_hint(
                "the file was changed or the connection is tampered with: compare with what its publisher says",
            ));
        }
        let collected = Collected {
            address: wanted.url.to_owned(),
            file: wanted.file.to_owned(),
            bytes,
            sha256,
            collected: rfc3339(SystemTime::now()),
            validator,
            modified_ns: modified_ns(&partial.file),
        };
        partial.put_in_place(wanted.into, &collected)?;
        Ok(collected)
    }

    /// Repeats attempts until the file is whole; `None` where it has not changed.
    fn until_whole(&self, wanted: &Wanted<'_>, partial: &Partial, meter: &Meter<'_>) -> Result<Option<Validator>> {
        let mut failures = 0;
        let mut seen = partial.bytes();
        loop {
            match self.attempt(wanted, partial, meter)? {
                Attempt::Whole(validator) => return Ok(Some(validator)),
                Attempt::Unchanged => return Ok(None),
                Attempt::Again { error, after, reached } => {
                    let now = partial.bytes();
                    failures = if now > seen { 1 } else { failures + 1 };
                    seen = now;
                    let allowed = if reached { REPETITIONS } else { REPETITIONS_UNREACHED };
                    if failures > allowed || after.is_some_and(|seconds| seconds > LONGEST_PAUSE) {
                        return Err(error);
                    }
                    self.wait(failures, after);
                }
            }
        }
    }

    fn wait(&self, failures: u32, after: Option<f64>) {
        let seconds = after.unwrap_or(self.pause * f64::from(1_u32 << (failures - 1).min(16)));
        std::thread::sleep(Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_PAUSE)));
    }

    fn attempt(&self, wanted: &Wanted<'_>, partial: &Partial, meter: &Meter<'_>) -> Result<Attempt> {
        let have = partial.bytes_of(wanted.url)?;
        let mut request = self.agent.get(wanted.url);
        if let Some(token) = wanted.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some((bytes, validator)) = &have {
            request = request.header("range", format!("bytes={bytes}-")).header("if-range", validator);
        } else if let Some(before) = &wanted.before {
            if let Some(etag) = &before.validator.etag {
                request = request.header("if-none-match", etag);
            }
            if let Some(modified) = &before.validator.modified {
                request = request.header("if-modified-since", modified);
            }
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(e) => return unreached(wanted.url, e),
        };
        match response.status() {
            StatusCode::OK => receive(response, 0, wanted, partial, meter),
            StatusCode::PARTIAL_CONTENT => {
                let have = have.map_or(0, |(bytes, _)| bytes);
                match content_range(response.headers()) {
                    Some((start, _)) if start == have => receive(response, have, wanted, partial, meter),
                    _ => again_from_the_start(wanted.url, partial, meter),
                }
            }
            StatusCode::NOT_MODIFIED => Ok(Attempt::Unchanged),
            StatusCode::RANGE_NOT_SATISFIABLE if have.is_some() => again_from_the_start(wanted.url, partial, meter),
            status if may_succeed_later(status) => Ok(Attempt::Again {
                error: refused(wanted.url, status),
                after: retry_after(response.headers()),
                reached: true,
            }),
            status => Err(refused(wanted.url, status)),
        }
    }

    /// Asks for a JSON document; with it the headers. `None` where there is none at this address.
    pub fn json(&self, url: &str, token: Option<&str>) -> Result<Option<(HeaderMap, Value)>> {
        for failures in 1.. {
            let mut request = self.agent.get(url);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let (error, after, allowed) = match request.call() {
                Ok(mut response) if response.status() == StatusCode::OK => {
                    let headers = response.headers().clone();
                    match response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec() {
                        Ok(bytes) => {
                            let value = serde_json::from_slice(&bytes).context(|| format!("{url} gave no JSON"))?;
                            return Ok(Some((headers, value)));
                        }
                        Err(e) => (broken_off(url, &e), None, REPETITIONS),
                    }
                }
                Ok(response) if response.status() == StatusCode::NOT_FOUND => return Ok(None),
                Ok(response) if may_succeed_later(response.status()) => {
                    (refused(url, response.status()), retry_after(response.headers()), REPETITIONS)
                }
                Ok(response) => return Err(refused(url, response.status())),
                Err(e) => match unreached(url, e)? {
                    Attempt::Again { error, after, reached } => {
                        (error, after, if reached { REPETITIONS } else { REPETITIONS_UNREACHED })
                    }
                    _ => return Ok(None),
                },
            };
            if failures > allowed || after.is_some_and(|seconds| seconds > LONGEST_PAUSE) {
                return Err(error);
            }
            self.wait(failures, after);
        }
        Ok(None)
    }
}

/// Certificates: those of the program, or those in the file that `SSL_CERT_FILE` names.
pub fn tls() -> Result<TlsConfig> {
    let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(TlsConfig::default());
    };
    let cannot = || format!("cannot read the certificates in {} (SSL_CERT_FILE)", path.display());
    let pem = std::fs::read(&path).context(cannot)?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.context(cannot)? {
            certificates.push(certificate);
        }
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}

/// The unfinished file and what lies beside it.
struct Partial {
    file: PathBuf,
    about: PathBuf,
    /// Of a file that is whole, until all files of its source are.
    whole: PathBuf,
}

impl Partial {
    fn of(target: &Path) -> Self {
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            file: target.with_file_name(format!(".{name}.partial")),
            about: target.with_file_name(format!(".{name}.partial.json")),
            whole: target.with_file_name(format!(".{name}.whole.json")),
        }
    }

    fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.len())
    }

    /// How much of a file is there, and by what the server tells that it is still the same file.
    fn bytes_of(&self, url: &str) -> Result<Option<(u64, String)>> {
        let Ok(about) = std::fs::read(&self.about) else { return Ok(None) };
        // What cannot be read is of no use: the file is fetched from its beginning.
        let about: Unfinished = serde_json::from_slice(&about).unwrap_or_default();
        let strong = about.validator.etag.filter(|etag| !etag.starts_with("W/")).or(about.validator.modified);
        let bytes = self.bytes();
        Ok(strong.filter(|_| bytes > 0 && about.url == url).map(|validator| (bytes, validator)))
    }

    fn begin(&self, url: &str, validator: &Validator) -> Result<()> {
        let about = Unfinished { url: url.to_owned(), validator: validator.clone() };
        let json = serde_json::to_vec(&about).context(|| "cannot write what a file is".to_owned())?;
        write_atomic(&self.about, &json)
    }

    fn remove(&self) -> Result<()> {
        for path in [&self.file, &self.about].into_iter().filter(|path| path.exists()) {
            std::fs::remove_file(path).context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// The file, if an earlier attempt at this source has fetched it whole.
    fn whole_before(&self, wanted: &Wanted<'_>) -> Result<Option<Collected>> {
        let Ok(bytes) = std::fs::read(&self.whole) else { return Ok(None) };
        let Ok(whole) = serde_json::from_slice::<Collected>(&bytes) else { return Ok(None) };
        let right = wanted.sha256.is_none_or(|digest| whole.sha256.eq_ignore_ascii_case(digest));
        Ok(if right && whole.address == wanted.url && whole.is_at(wanted.into)? { Some(whole) } else { None })
    }

    fn put_in_place(&self, target: &Path, collected: &Collected) -> Result<()> {
        let json = serde_json::to_vec(collected).context(|| "cannot write what a file is".to_owned())?;
        write_atomic(&self.whole, &json)?;
        std::fs::rename(&self.file, target).context(|| format!("cannot put {} in its place", target.display()))?;
        if let Some(parent) = target.parent().filter(|_| cfg!(unix)) {
            File::open(parent)
                .and_then(|dir| dir.sync_all())
                .context(|| format!("cannot sync {}", parent.display()))?;
        }
        self.remove()
    }
}

/// Writes an answer's body behind the `start` bytes that are there.
fn receive(
    response: Response<Body>,
    start: u64,
    wanted: &Wanted<'_>,
    partial: &Partial,
    meter: &Meter<'_>,
) -> Result<Attempt> {
    let validator = validator_of(response.headers());
    let length = response.body().content_length();
    let too_large = |bytes: u64| {
        Error::failed(format!("{} is larger than the {} allowed ({bytes} bytes)", wanted.url, wanted.max_bytes))
            .with_hint("raise `max_bytes` of this source")
    };
    if let Some(length) = length.filter(|length| start.saturating_add(*length) > wanted.max_bytes) {
        return Err(too_large(start + length));
    }
    let cannot = || format!("cannot write {}", partial.file.display());
    if start == 0 {
        meter.take_back(partial.bytes());
        partial.begin(wanted.url, &validator)?;
    }
    let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&partial.file).context(cannot)?;
    file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start))).context(cannot)?;
    let (mut body, mut buffer, mut bytes) = (response.into_body().into_reader(), vec![0; 256 << 10], start);
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                bytes += n as u64;
                if bytes > wanted.max_bytes {
                    return Err(too_large(bytes));
                }
                file.write_all(&buffer[..n]).context(cannot)?;
                meter.add(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                let error = broken_off(wanted.url, &e);
                return Ok(Attempt::Again { error, after: None, reached: true });
            }
        }
    }
    file.sync_all().context(cannot)?;
    if length.is_some_and(|length| start + length != bytes) {
        let error = Error::failed(format!("{} ended after {}", wanted.url, human_bytes(bytes as f64)));
        return Ok(Attempt::Again { error, after: None, reached: true });
    }
    Ok(Attempt::Whole(validator))
}

fn again_from_the_start(url: &str, partial: &Partial, meter: &Meter<'_>) -> Result<Attempt> {
    meter.take_back(partial.bytes());
    partial.remove()?;
    let error = Error::failed(format!("{url}: the server does not go on where the file was cut off"));
    Ok(Attempt::Again { error, after: Some(0.0), reached: true })
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn validator_of(headers: &HeaderMap) -> Validator {
    let text = |name: &str| text_of(headers, name).map(str::to_owned);
    Validator { etag: text("etag"), modified: text("last-modified") }
}

/// Start and total of `Content-Range: bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = text_of(headers, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

/// The pause that a server asks for, seconds.
pub fn retry_after(headers: &HeaderMap) -> Option<f64> {
    text_of(headers, "retry-after")?.trim().parse::<u32>().ok().map(f64::from)
}

/// Whether the same request may succeed later.
pub fn may_succeed_later(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED || matches!(status.as_u16(), 408 | 425 | 429)
}

fn refused(url: &str, status: StatusCode) -> Error {
    let error = Error::failed(format!("{url}: the server answers {status}"));
    match status.as_u16() {
        404 | 410 => error.with_hint("check the address: there is nothing there"),
        401 | 403 => error.with_hint("the file is not public, or the server does not want to give it"),
        407 => error.with_hint("the proxy wants a user and a password in HTTPS_PROXY"),
        300..=399 => error.with_hint("it points elsewhere in circles: check the address"),
        429 => error.with_hint("too many requests: try later"),
        500.. => error.with_hint("the server is in trouble: the same command goes on where it was"),
        _ => error,
    }
}

fn broken_off(url: &str, error: &dyn std::error::Error) -> Error {
    Error::failed(format!("the connection broke off while receiving {url}: {error}"))
        .with_hint("the same command goes on where it was")
}

/// An attempt that got no answer: what can never succeed is an error at once.
fn unreached(url: &str, error: ureq::Error) -> Result<Attempt> {
    let host = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or(url);
    let failed = Error::failed(format!("cannot reach {host}"))
        .with_hint("check the network and the address; a proxy is taken from HTTPS_PROXY");
    let reached = match &error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => false,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => {
            // The TLS library wraps its complaints about certificates.
            return Err(failed.with_hint("certificates of your own are taken from SSL_CERT_FILE").with_source(error));
        }
        ureq::Error::Io(e) => e.kind() != io::ErrorKind::ConnectionRefused,
        ureq::Error::Protocol(_) => true,
        ureq::Error::TooManyRedirects => {
            return Err(Error::failed(format!("{url} points elsewhere more than ten times"))
                .with_hint("it points elsewhere in circles: check the address"));
        }
        _ => return Err(failed.with_source(error)),
    };
    Ok(Attempt::Again { error: failed.with_source(error), after: None, reached })
}
