//! A server that speaks OpenAI's chat completions: asking it patiently, and saying what was wrong without giving away what
//! was asked or the key.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cupola_artifact::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::http::{Response, Uri};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// An answer of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What it said.
    pub text: String,
    /// Whether it was cut at the most tokens allowed.
    pub cut: bool,
    /// The model as the server calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens of the request, where the server counts.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    #[serde(default)]
    pub completion_tokens: u64,
}

/// Bytes of an answer that are read at most.
const MAX_ANSWER: u64 = 4 << 20;

/// Seconds between two attempts at most, where the server does not say how long.
const LONGEST_BACKOFF: f64 = 60.0;

/// Seconds that a server may ask to wait.
const LONGEST_WAIT: f64 = 900.0;

/// So many documents in a row without an answer stop the run; fewer as long as nothing was answered at all.
const STOP_AFTER: usize = 10;
const STOP_AFTER_AT_FIRST: usize = 3;

/// How a server is asked.
pub struct Asking {
    /// Seconds for a request and its answer.
    pub timeout: f64,
    /// Attempts after the first.
    pub retries: u32,
    /// Seconds before the second attempt; doubled for each further one.
    pub backoff: f64,
    /// What hints say of the answers that were there before all asking ended.
    pub kept: &'static str,
}

/// A server.
pub struct Api {
    agent: ureq::Agent,
    url: String,
    host: String,
    /// The value of the header `Authorization`, and the environment variable that the key is from.
    key: Option<(String, String)>,
    asking: Asking,
    /// Before this no request is sent: the server asked to wait.
    pause: Mutex<Option<Instant>>,
    health: Mutex<Health>,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Health {
    ever_answered: bool,
    failed_in_a_row: usize,
    stop: Option<Stop>,
}

/// Why no request makes sense any more.
#[derive(Clone, Debug)]
struct Stop {
    message: String,
    hint: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// It is this request's fault, or the server was in trouble; others may be answered.
    Document(String),
    /// Nothing will be answered.
    Run(Error),
}

/// What came of an attempt that brought no answer.
enum Attempt {
    /// It is worth another one, after so long if the server says so.
    Again { why: String, after: Option<Duration>, then: Then },
    /// The server does not want this request.
    Refused(String),
    /// The server wants no request.
    Stop(Stop),
}

/// What it means when all attempts end like this.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// The document is set aside.
    SetAside,
    /// The run stops.
    Stop,
}

impl Api {
    /// A server by its address; `key` is the name of an environment variable and what it holds.
    pub fn new(address: &str, key: Option<(String, String)>, asking: Asking) -> Result<Self> {
        let (url, host) = url(address)?;
        let local = ["localhost", "127.", "[::1]"].iter().any(|local| host.starts_with(local));
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("cupola/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(Duration::from_secs_f64(asking.timeout)));
        if local {
            config = config.proxy(None);
        }
        let key = key.map(|(name, key)| (format!("Bearer {}", key.trim()), name));
        Ok(Self {
            agent: config.build().into(),
            url,
            host,
            key,
            asking,
            pause: Mutex::default(),
            health: Mutex::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// Where requests go.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's name, with its port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Sends a request until it is answered, as often as is allowed. `private` is what may not be told of it.
    pub fn ask(&self, body: &[u8], private: &str) -> Result<Answer, Failure> {
        for attempt in 0.. {
            self.wait_for_turn()?;
            match self.attempt(body, private) {
                Ok(answer) => {
                    let mut health = self.health();
                    (health.ever_answered, health.failed_in_a_row) = (true, 0);
                    return Ok(answer);
                }
                Err(Attempt::Stop(stop)) => return Err(self.stop(stop)),
                Err(Attempt::Refused(why)) => return Err(self.failed(why)),
                Err(Attempt::Again { why, then, .. }) if attempt == self.asking.retries => {
                    let why = format!("{why}, also at the last of {} attempts", u64::from(attempt) + 1);
                    return Err(match then {
                        Then::SetAside => self.failed(why),
                        Then::Stop => self.stop(Stop { message: why, hint: self.asking.kept.into() }),
                    });
                }
                Err(Attempt::Again { why, after: Some(after), .. }) => {
                    if after.as_secs_f64() > LONGEST_WAIT {
                        let message = format!("{why} and asks to wait for {} seconds", after.as_secs());
                        return Err(self.stop(Stop { message, hint: self.asking.kept.into() }));
                    }
                    let until = Instant::now() + after;
                    let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
                    *pause = Some(pause.map_or(until, |pause| pause.max(until)));
                }
                Err(Attempt::Again { .. }) => {
                    let longest = self.asking.backoff * 2_f64.powi(attempt.min(30) as i32);
                    // Not all at the same time: from half of it to all of it.
                    let share = 0.5 + 0.5 * (xxh3_64_with_seed(body, u64::from(attempt)) >> 32) as f64 / 2_f64.powi(32);
                    self.sleep_until(Instant::now() + Duration::from_secs_f64(longest.min(LONGEST_BACKOFF) * share))?;
                }
            }
        }
        Err(Failure::Document("it was not asked".into()))
    }

    fn attempt(&self, body: &[u8], private: &str) -> Result<Answer, Attempt> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some((key, _)) = &self.key {
            request = request.header("authorization", key);
        }
        let mut response = request.send(body).map_err(|e| self.not_sent(&e))?;
        let status = response.status().as_u16();
        let after = retry_after(&response);
        let told = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let told: Value = match told {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(e) if (200..300).contains(&status) => return Err(self.not_sent(&e)),
            Err(_) => Value::Null,
        };
        match status {
            200..=299 => answer(&told).ok_or_else(|| Attempt::Again {
                why: format!("what {} sends is no chat completion", self.host),
                after: None,
                then: Then::SetAside,
            }),
            _ => Err(self.refusal(status, after, &told, private)),
        }
    }

    /// What a status means.
    fn refusal(&self, status: u16, after: Option<Duration>, told: &Value, private: &str) -> Attempt {
        let (host, kept) = (&self.host, self.asking.kept);
        let stop = |message: String, hint: String| Attempt::Stop(Stop { message, hint });
        let code = told["error"]["code"].as_str().or(told["error"]["type"].as_str()).unwrap_or_default();
        match status {
            401 | 403 => {
                let hint = match &self.key {
                    Some((_, name)) => format!("check the key in the environment variable {name}; {kept}"),
                    None => format!("set `key_env` to the environment variable that holds the key; {kept}"),
                };
                stop(format!("{host} refused the key (status {status})"), hint)
            }
            402 => stop(format!("{host} wants to be paid (status 402)"), kept.into()),
            429 if code == "insufficient_quota" => {
                stop(format!("the quota at {host} is used up (status 429)"), kept.into())
            }
            404 => stop(
                format!("{host} knows no such model or no such address (status 404)"),
                "check `model` and `api`: requests go to the `api` address with `/chat/completions` added".into(),
            ),
            300..=399 => stop(
                format!("{host} sends requests elsewhere (status {status})"),
                "set `api` to the address that the server really has".into(),
            ),
            408 | 409 | 425 | 429 | 500.. => Attempt::Again {
                why: match status {
                    429 => format!("{host} has had too many requests (status 429)"),
                    _ => format!("{host} is in trouble (status {status})"),
                },
                after,
                then: if status == 429 { Then::Stop } else { Then::SetAside },
            },
            _ => {
                let message = told["error"]["message"].as_str().or(told["message"].as_str()).unwrap_or_default();
                let message = self.harmless(message, private).map_or(String::new(), |message| format!(": {message}"));
                Attempt::Refused(format!("{host} refused the request (status {status}){message}"))
            }
        }
    }

    /// What it means that nothing came back.
    fn not_sent(&self, error: &ureq::Error) -> Attempt {
        let host = &self.host;
        let again = |why: String, then: Then| Attempt::Again { why, after: None, then };
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_) => again(format!("{host} cannot be reached: {error}"), Then::Stop),
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                again(format!("{host} cannot be reached: {e}"), Then::Stop)
            }
            ureq::Error::Timeout(_) => {
                again(format!("{host} did not answer within {} seconds", self.asking.timeout), Then::SetAside)
            }
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::TlsRequired => Attempt::Stop(Stop {
                message: format!("no trusted connection to {host}: {error}"),
                hint: "check `api`, and that the server's certificate is valid".into(),
            }),
            ureq::Error::Http(_) => Attempt::Stop(Stop {
                message: format!("a request to {host} cannot be made"),
                hint: "the key may hold no line breaks and nothing but ASCII".into(),
            }),
            ureq::Error::BodyExceedsLimit(_) => {
                Attempt::Refused(format!("the answer of {host} is above {MAX_ANSWER} bytes"))
            }
            _ => again(format!("the connection to {host} broke: {error}"), Then::SetAside),
        }
    }

    /// What a server tells, if it repeats neither the key nor the prompt.
    fn harmless(&self, message: &str, private: &str) -> Option<String> {
        const MOST: usize = 200;
        const REPEATED: usize = 24;
        const OF_THE_KEY: usize = 6;
        let message: Vec<char> = message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MOST).collect();
        let text: String = message.iter().collect();
        let private = private.split_whitespace().collect::<Vec<_>>().join(" ");
        let repeats = message.windows(REPEATED).any(|some| private.contains(&some.iter().collect::<String>()));
        let key = self.key.as_ref().map(|(key, _)| key.trim_start_matches("Bearer ").chars().collect::<Vec<char>>());
        let tells = key.is_some_and(|key| {
            key.windows(OF_THE_KEY.min(key.len().max(1))).any(|some| text.contains(&some.iter().collect::<String>()))
        });
        (!text.is_empty() && !repeats && !tells).then_some(text)
    }

    /// A document without an answer; the run's end when there have been too many.
    fn failed(&self, why: String) -> Failure {
        let mut health = self.health();
        health.failed_in_a_row += 1;
        let most = if health.ever_answered { STOP_AFTER } else { STOP_AFTER_AT_FIRST };
        if health.failed_in_a_row < most {
            return Failure::Document(why);
        }
        drop(health);
        self.stop(Stop {
            message: format!("no request is answered any more; the last time {why}"),
            hint: self.asking.kept.into(),
        })
    }

    /// Ends all asking.
    fn stop(&self, stop: Stop) -> Failure {
        let mut health = self.health();
        let stop = health.stop.get_or_insert(stop).clone();
        self.stopped.store(true, Ordering::Relaxed);
        Failure::Run(Error::failed(stop.message).with_hint(stop.hint))
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_turn(&self) -> Result<(), Failure> {
        loop {
            let pause = *self.pause.lock().unwrap_or_else(PoisonError::into_inner);
            match pause.filter(|until| *until > Instant::now()) {
                Some(until) => self.sleep_until(until)?,
                None => return self.sleep_until(Instant::now()),
            }
        }
    }

    /// Sleeps, unless all asking has ended.
    fn sleep_until(&self, until: Instant) -> Result<(), Failure> {
        const LOOK: Duration = Duration::from_millis(50);
        loop {
            if self.stopped.load(Ordering::Relaxed)
                && let Some(stop) = self.health().stop.clone()
            {
                return Err(Failure::Run(Error::failed(stop.message).with_hint(stop.hint)));
            }
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => std::thread::sleep(left.min(LOOK)),
            }
        }
    }
}

/// Where requests go, and the server's name: `/v1` is added to an address without a path.
pub fn url(address: &str) -> Result<(String, String)> {
    let wrong = |what: &str| {
        Error::usage(format!("`api` {what}"))
            .with_hint("write the address that clients call the base, e.g. `http://127.0.0.1:8000/v1`")
    };
    // The address itself is not told: someone may have written a key into it.
    let uri: Uri = address.trim().parse().map_err(|_| wrong("is no address"))?;
    let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("does not begin with `http://` or `https://` and a server's name"));
    };
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err(wrong("holds a user or a query, and both would be told in the manifest"));
    }
    let path = match uri.path().trim_end_matches('/') {
        "" => "/v1",
        path => path.trim_end_matches("/chat/completions"),
    };
    let host = authority.as_str().to_lowercase();
    Ok((format!("{}://{host}{path}/chat/completions", uri.scheme_str().unwrap_or("http")), host))
}

fn retry_after(response: &Response<ureq::Body>) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?.trim();
    match value.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).unwrap_or_default()),
    }
}

/// The answer in a chat completion; an empty one where the model said nothing.
fn answer(told: &Value) -> Option<Answer> {
    let choice = told["choices"].as_array()?.first()?;
    let message = choice.get("message")?;
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    };
    let tokens = |name: &str| told["usage"][name].as_u64().unwrap_or(0);
    Some(Answer {
        text,
        cut: choice["finish_reason"] == "length",
        model: told["model"].as_str().map(str::to_owned),
        prompt_tokens: tokens("prompt_tokens"),
        completion_tokens: tokens("completion_tokens"),
    })
}

/// The key in an environment variable, with the variable's name; none where none is named.
///
/// # Errors
/// A variable that is not set, or empty.
pub fn key(name: Option<&str>) -> Result<Option<(String, String)>> {
    let Some(name) = name else { return Ok(None) };
    match std::env::var(name) {
        Ok(key) if !key.trim().is_empty() => Ok(Some((name.to_owned(), key))),
        _ => Err(Error::usage(format!("the environment variable {name}, which `key_env` names, holds no key"))
            .with_hint(format!("`export {name}=…` before the run, or remove `key_env` where the server wants no key"))),
    }
}

/// Whether a text can be the name of an environment variable; it may be a key that somebody wrote into a recipe.
pub fn is_variable(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_completed_and_a_secret_in_it_is_refused() {
        for (address, wanted) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
            ("https://API.example.com/v1/", "https://api.example.com/v1/chat/completions"),
            ("https://example.com/v1beta/openai", "https://example.com/v1beta/openai/chat/completions"),
            ("https://example.com/v1/chat/completions", "https://example.com/v1/chat/completions"),
        ] {
            assert_eq!(url(address).unwrap().0, wanted);
        }
        for address in
            ["", "example.com", "ftp://example.com", "https://user:hidden@example.com", "https://a.b/?k=hidden"]
        {
            let error = url(address).unwrap_err();
            assert!(error.hint().is_some() && !error.chain().contains("hidden"), "{error:?}");
        }
    }

    #[test]
    fn what_a_server_tells_is_passed_on_unless_it_repeats_the_key_or_the_prompt() {
        let asking = Asking { timeout: 1.0, retries: 0, backoff: 0.0, kept: "" };
        let api = Api::new("http://a.b", Some(("KEY".into(), "sk-0123456789".into())), asking).unwrap();
        let prompt = "Please write pairs about\n the river Danube in spring.";
        assert_eq!(api.harmless("the context\nis too long", prompt).unwrap(), "the context is too long");
        assert_eq!(api.harmless("cannot say: pairs about the river Danube in spring", prompt), None);
        assert_eq!(api.harmless("wrong key 456789", prompt), None);
    }

    #[test]
    fn answers_are_read_in_all_shapes() {
        let text = json!({"choices": [{"message": {"content": "yes"}, "finish_reason": "length"}], "model": "m-1"});
        let wanted = Answer { text: "yes".into(), cut: true, model: Some("m-1".into()), ..Answer::default() };
        assert_eq!(answer(&text), Some(wanted));
        let parts = json!({"choices": [{"message": {"content": [{"text": "y"}, {"text": "es"}]}}]});
        assert_eq!(answer(&parts).unwrap().text, "yes");
        assert_eq!(answer(&json!({"choices": [{"message": {"content": null}}]})).unwrap().text, "");
        assert_eq!(answer(&json!({"error": {}})), None);
        assert_eq!(answer(&Value::Null), None);
    }
}
