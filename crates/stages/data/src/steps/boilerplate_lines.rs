//! Removing lines that web pages add to their text: cookie notices, calls to share or to log in, counters.

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

use crate::step::{Each, Kind, Notes, Verdict};

/// The step.
pub const BOILERPLATE_LINES: Kind = Kind::each::<BoilerplateLines>(
    "boilerplate_lines",
    "removes lines: cookie and JavaScript notices, calls to share or log in, counters (Raffel et al. 2020, Penedo et al. 2023)",
);

/// Removes lines as C4 (Raffel et al. 2020, section 2.2) and RefinedWeb (Penedo et al. 2023, appendix G.2) do, and counts them by
/// reason. C4 removes every line with the word "javascript" and all without a sentence's end; here a line must be short and
/// say what such lines say. Headings, blocks of code, tables and terms before their meaning stay. A document of which
/// nothing is left is dropped as `boilerplate_lines_empty`, one that loses too much as `boilerplate_lines_removed`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoilerplateLines {
    /// Notices of cookies and privacy (C4's phrases, and those of other languages).
    pub cookies: bool,
    /// Notices that JavaScript must be switched on (C4).
    pub javascript: bool,
    /// Calls to share, print or follow (RefinedWeb).
    pub sharing: bool,
    /// Calls to log in, register or subscribe (RefinedWeb).
    pub login: bool,
    /// Lines of numbers only, and counts of likes, comments, views and the like (RefinedWeb).
    pub counters: bool,
    /// Calls to read on, to skip or to go to the top, and what shops say of carts (RefinedWeb).
    pub reading: bool,
    /// Longer lines are no calls, in words between spaces (RefinedWeb: 10).
    pub call_words: usize,
    /// Longer lines are no notices, in words (two sentences; C4 has no limit).
    pub notice_words: usize,
    /// A document that loses more than this share of its bytes is dropped (RefinedWeb: 0.05 of its words; 1: none).
    pub max_removed: f64,
}

impl Default for BoilerplateLines {
    fn default() -> Self {
        Self {
            cookies: true,
            javascript: true,
            sharing: true,
            login: true,
            counters: true,
            reading: true,
            call_words: 10,
            notice_words: 50,
            max_removed: 1.0,
        }
    }
}

/// Anywhere in a notice. Of a group separated by `+` all must be there.
const COOKIES: &[&str] = &[
    "use of cookies",
    "uses cookies",
    "use cookies",
    "using cookies",
    "cookie policy",
    "cookies policy",
    "cookie settings",
    "cookie preferences",
    "accept cookies",
    "accept all cookies",
    "cookie consent",
    "utilise des cookies",
    "utilisons des cookies",
    "verwendet cookies",
    "verwenden cookies",
    "nutzt cookies",
    "utiliza cookies",
    "utilizamos cookies",
    "usa cookies",
    "utilizza cookie",
    "gebruikt cookies",
    "gebruiken cookies",
    "используе+cookie",
    "使用cookie",
    "使用 cookie",
    "cookieを使用",
    "クッキーを使用",
    "쿠키를 사용",
];
const JAVASCRIPT: &[&str] = &[
    "javascript+enable",
    "javascript+disabled",
    "javascript+turn on",
    "javascript+is required",
    "javascript+requires",
    "javascript+your browser",
    "javascript+activ",
    "javascript+aktivier",
    "javascript+habilit",
    "javascript+включ",
    "javascript+启用",
    "javascript+啟用",
    "javascript+有効",
    "javascript+votre navigateur",
];
/// At the beginning of a call.
const SHARING: &[&str] = &[
    "share this",
    "share on ",
    "share via ",
    "share with ",
    "share to ",
    "tweet this",
    "pin it",
    "email this",
    "print this",
    "follow us",
    "like us on",
    "find us on",
    "share:",
    "click to share",
    "partager sur",
    "teilen auf",
    "compartir en",
    "分享到",
    "シェアする",
];
const LOGIN: &[&str] = &[
    "log in",
    "login",
    "sign in",
    "sign up",
    "sign-in",
    "sign-up",
    "register now",
    "register to",
    "create an account",
    "forgot your password",
    "forgot password",
    "you must be logged in",
    "you need to log in",
    "please log in",
    "already a member",
    "not a member",
    "subscribe to our",
    "subscribe now",
    "join our newsletter",
    "sign up for our",
    "se connecter",
    "jetzt anmelden",
    "iniciar sesión",
    "войти",
    "登录",
    "登錄",
    "ログイン",
];
const READING: &[&str] = &[
    "skip to content",
    "skip to main",
    "skip to navigation",
    "jump to navigation",
    "jump to content",
    "back to top",
    "return to top",
    "go to top",
    "click here to",
    "items in cart",
    "add to cart",
    "your cart",
    "leave a comment",
    "leave a reply",
    "post a comment",
    "no comments",
    "read more",
    "continue reading",
    "view all",
    "show more",
    "load more",
    "loading...",
    "page not found",
    "返回顶部",
    "返回頂部",
];
/// At the end of a call.
const READING_ON: &[&str] =
    &["read more", "read more...", "read more…", "read more »", "continue reading", "阅读全文", "続きを読む"];
/// What is counted.
const COUNTED: &[&str] = &[
    "like",
    "likes",
    "comment",
    "comments",
    "view",
    "views",
    "share",
    "shares",
    "retweet",
    "retweets",
    "follower",
    "followers",
    "reply",
    "replies",
    "vote",
    "votes",
    "point",
    "points",
    "upvotes",
    "downloads",
    "reads",
    "tweets",
    "reviews",
    "subscribers",
];

impl Each for BoilerplateLines {
    fn validate(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.max_removed) {
            return Ok(());
        }
        Err(Error::usage(format!("`max_removed` of `boilerplate_lines` is {}, and a share", self.max_removed))
            .with_hint("give a number from 0 to 1; with 1 no document is dropped"))
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let before = document.text.len();
        let Some(text) = self.clean(&document.text, notes) else { return Verdict::Keep };
        document.text = text;
        let removed = 1.0 - document.text.len() as f64 / before as f64;
        if document.text.trim().is_empty() {
            Verdict::Drop("boilerplate_lines_empty")
        } else if removed > self.max_removed {
            Verdict::Drop("boilerplate_lines_removed")
        } else {
            Verdict::Keep
        }
    }
}

impl BoilerplateLines {
    /// The text without such lines; none if it has none. Where one was removed between two empty lines, one of these goes too.
    fn clean(&self, text: &str, notes: &mut Notes) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let (mut in_code, mut removed) = (false, false);
        let mut lines = text.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            let bare = line.trim();
            let fence = bare.starts_with("```");
            in_code ^= fence;
            // Headings are not removed, nor terms before what they mean.
            let structure = fence || in_code || bare.starts_with(['|', '#']);
            let mut is_term = || lines.peek().is_some_and(|next| next.trim_start().starts_with(": "));
            let reason = if structure { None } else { self.reason(bare).filter(|_| !is_term()) };
            if let Some(reason) = reason {
                notes.count(reason, 1);
                removed = true;
            } else if !(removed && bare.is_empty() && (out.is_empty() || out.ends_with("\n\n"))) {
                out.push_str(line);
                removed &= bare.is_empty();
            }
        }
        (out.len() < text.len()).then(|| out.trim_end().to_owned())
    }

    /// Why a line goes.
    fn reason(&self, line: &str) -> Option<&'static str> {
        let words = line.split_whitespace().take(self.notice_words.max(self.call_words) + 1).count();
        if words == 0 || words > self.notice_words.max(self.call_words) || line.len() > 40 * words.max(10) {
            return None;
        }
        let lower = line.to_lowercase();
        let lower = lower.trim_start_matches(['-', '*', '>', ' ', '[', '•', '»']);
        let anywhere =
            |phrases: &[&str]| phrases.iter().any(|phrase| phrase.split('+').all(|part| lower.contains(part)));
        let start = |phrases: &[&str]| phrases.iter().any(|phrase| starts_with_words(lower, phrase));
        let end = |phrases: &[&str]| phrases.iter().any(|phrase| lower.ends_with(phrase));
        let notice = words <= self.notice_words;
        let call = words <= self.call_words && !ends_sentence(lower);
        let found = [
            (self.javascript && notice && lower.contains("javascript") && anywhere(JAVASCRIPT), "javascript_lines"),
            (self.cookies && notice && anywhere(COOKIES), "cookie_lines"),
            (self.counters && words <= self.call_words && is_counter(lower), "counter_lines"),
            (self.sharing && call && start(SHARING), "sharing_lines"),
            (self.login && call && start(LOGIN), "login_lines"),
            (self.reading && call && (start(READING) || end(READING_ON)), "reading_lines"),
        ];
        found.iter().find(|(holds, _)| *holds).map(|(_, reason)| *reason)
    }
}

/// Begins with the phrase, and the phrase ends where a word ends.
fn starts_with_words(line: &str, phrase: &str) -> bool {
    let rest = line.strip_prefix(phrase);
    let ascii = phrase.ends_with(|c: char| c.is_ascii_alphabetic());
    rest.is_some_and(|rest| !ascii || !rest.starts_with(|c: char| c.is_alphanumeric()))
}

/// A whole sentence is text, not a call: `Log in to the server as root.`
fn ends_sentence(line: &str) -> bool {
    line.ends_with(['.', '?', ':', ';', ',', '。', '：']) && !line.ends_with("...")
}

/// Numbers only, or numbers and what they count: `1.2k likes`, `12 / 40`, `Share 3`.
fn is_counter(line: &str) -> bool {
    let mut numbers = 0;
    let mut counted = 0;
    for word in line.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let digits = bare.trim_end_matches(['k', 'm', '+', '%']);
        if bare.is_empty() {
            continue;
        } else if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b',')) {
            numbers += 1;
        } else if COUNTED.contains(&bare) {
            counted += 1;
        } else {
            return false;
        }
    }
    numbers > 0 && (counted > 0 || !line.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(line: &str) -> Option<&'static str> {
        BoilerplateLines::default().reason(line)
    }

    #[test]
    fn each_kind_of_line_has_its_reason() {
        for (line, expected) in [
            ("This website uses cookies to give you the best experience. By browsing on you agree.", "cookie_lines"),
            ("Diese Seite verwendet Cookies.", "cookie_lines"),
            ("本网站使用Cookie。", "cookie_lines"),
            ("Please enable JavaScript to view the comments.", "javascript_lines"),
            ("Share this on Facebook", "sharing_lines"),
            ("- Follow us", "sharing_lines"),
            ("Log in or register to post", "login_lines"),
            ("登录", "login_lines"),
            ("1.2k likes", "counter_lines"),
            ("12 comments · 3 shares", "counter_lines"),
            ("2 / 40", "counter_lines"),
            ("Skip to content", "reading_lines"),
            ("The river had been rising … Read more", "reading_lines"),
        ] {
            assert_eq!(reason(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn text_about_the_same_things_stays() {
        for line in [
            "JavaScript is a programming language of the web.",
            "A cookie is sent with every request, so keep it small.",
            "Log in to the server as root.",
            "Shares fell by three percent.",
            "Loginov was born in 1850",
            "1. First",
            "In 1999 12 ships sailed",
            "# Share prices",
            "",
        ] {
            assert_eq!(reason(line), None, "{line}");
        }
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        let text = "Skip to content\n\n# 3.2 Votes\n\n\n7\n: A line.\n\n12 likes\n\n```\nlog in\n\n\n42\n```\n\n| 1 | 2 |\n\nLogin";
        let mut notes = Notes::default();
        let clean = BoilerplateLines::default().clean(text, &mut notes).unwrap_or_default();
        assert_eq!(clean, "# 3.2 Votes\n\n\n7\n: A line.\n\n```\nlog in\n\n\n42\n```\n\n| 1 | 2 |");
        let counts: Vec<(&str, u64)> = notes.counts().iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(counts, [("counter_lines", 1), ("login_lines", 1), ("reading_lines", 1)]);
        let untouched = "\n\nA line.\n\n\nAnother. \n";
        assert_eq!(BoilerplateLines::default().clean(untouched, &mut notes), None);
    }

    #[test]
    fn a_share_is_between_zero_and_one() {
        for (max_removed, good) in [(0.0, true), (1.0, true), (-0.1, false), (5.0, false), (f64::NAN, false)] {
            assert_eq!(BoilerplateLines { max_removed, ..BoilerplateLines::default() }.validate().is_ok(), good);
        }
    }

    #[test]
    fn a_document_that_loses_too_much_is_dropped() {
        let step = BoilerplateLines { max_removed: 0.5, ..BoilerplateLines::default() };
        for (text, expected) in [
            ("A line that is a line.\nLogin", Verdict::Keep),
            ("A line.\nLog in or register", Verdict::Drop("boilerplate_lines_removed")),
            ("Login\n\n3 views", Verdict::Drop("boilerplate_lines_empty")),
        ] {
            assert_eq!(step.apply(&mut Document::new("1", text, "s"), &mut Notes::default()), expected, "{text}");
        }
    }
}
