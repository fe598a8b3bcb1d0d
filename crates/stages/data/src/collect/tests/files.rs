//! Files at addresses.

use cupola_artifact::{Class, sha256_hex};

use super::server::{Answer, Server};
use super::{collected, content, fails};

/// Bytes that nothing makes by accident.
fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

fn one(address: &str) -> String {
    format!("sources = [\"{address}\"]")
}

#[test]
fn a_connection_cut_in_the_middle_goes_on_by_range() {
    let body = noise(1 << 20);
    let sent = body.clone();
    let server = Server::start(move |asked, number| {
        let answer = Answer::file(asked, &sent, "\"v1\"");
        if number == 0 { answer.cut_after(400_000) } else { answer }
    });
    let dir = tempfile::tempdir().unwrap();
    let collection = collected(dir.path(), "", &one(&server.at("/a.bin"))).unwrap();
    assert!(content(&collection) == body);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("range"), Some("bytes=400000-"));
    assert_eq!(asked[1].header("if-range"), Some("\"v1\""));
    let source = &collection.sources[0];
    assert_eq!((source.bytes, &source.sha256), (1 << 20, &sha256_hex(&body)));
    assert_eq!(source.files[0].address, server.at("/a.bin"));
    // What is in the cache is not asked for again.
    assert_eq!(collected(dir.path(), "", &one(&server.at("/a.bin"))).unwrap().sources, collection.sources);
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_run_that_gave_up_is_gone_on_with_by_the_next() {
    let body = noise(500_000);
    let sent = body.clone();
    let server = Server::start(move |asked, number| match number {
        0 => Answer::file(asked, &sent, "\"v1\"").cut_after(300_000),
        1..=5 => Answer::new(503, "").with("retry-after", "0"),
        6 => Answer::new(429, "").with("retry-after", "4000"),
        _ => Answer::file(asked, &sent, "\"v1\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let error = fails(dir.path(), "", &one(&server.at("/a.bin")));
    assert!(error.chain().contains("503"), "{}", error.chain());
    assert!(error.hint().unwrap().contains("goes on"));
    let error = fails(dir.path(), "", &one(&server.at("/a.bin")));
    assert!(error.chain().contains("429"), "a pause of more than an hour is not waited for: {}", error.chain());
    assert!(content(&collected(dir.path(), "", &one(&server.at("/a.bin"))).unwrap()) == body);
    assert_eq!(server.asked().last().unwrap().header("range"), Some("bytes=300000-"));
}

#[test]
fn a_file_that_changes_while_it_is_fetched_is_fetched_anew() {
    let (old, new) = (noise(300_000), noise(200_001));
    let body = new.clone();
    let server = Server::start(move |asked, number| match number {
        0 => Answer::file(asked, &old, "\"v1\"").cut_after(100_000),
        _ => Answer::file(asked, &body, "\"v2\""),
    });
    let dir = tempfile::tempdir().unwrap();
    assert!(content(&collected(dir.path(), "", &one(&server.at("/a"))).unwrap()) == new);
}

#[test]
fn a_server_that_knows_no_ranges_or_gives_wrong_ones_does_no_harm() {
    let body = noise(300_000);
    for wrong_range in [false, true] {
        let sent = body.clone();
        let server = Server::start(move |asked, number| match (number, wrong_range) {
            (0, _) => Answer::file(asked, &sent, "\"v1\"").cut_after(100_000),
            (1, true) => Answer::new(206, "other").with("content-range", "bytes 5-9/300000"),
            _ => Answer::new(200, sent.clone()),
        });
        let dir = tempfile::tempdir().unwrap();
        assert!(content(&collected(dir.path(), "", &one(&server.at("/a"))).unwrap()) == body, "{wrong_range}");
    }
}

#[test]
fn a_wrong_checksum_is_an_error_and_leaves_nothing() {
    let server = Server::start(|asked, _| Answer::file(asked, b"text", "\"v1\""));
    let dir = tempfile::tempdir().unwrap();
    let with = |digest: &str| format!("sources = [{{ path = \"{}\", sha256 = \"{digest}\" }}]", server.at("/a.txt"));
    let error = fails(dir.path(), "", &with(&"0".repeat(64)));
    assert!(error.chain().contains(&sha256_hex(b"text")) && error.chain().contains("000 is expected"), "{error:?}");
    assert_eq!(content(&collected(dir.path(), "", &with(&sha256_hex(b"text").to_uppercase())).unwrap()), b"text");
    assert_eq!(server.asked().len(), 2);
    // A recipe that wants another file does not get the one in the cache.
    fails(dir.path(), "", &with(&"1".repeat(64)));
    let error = fails(dir.path(), "", &with("abc"));
    assert_eq!(error.class(), Class::Usage);
    assert!(error.hint().unwrap().contains("64"));
}

#[test]
fn errors_say_what_is_wrong_and_only_what_may_help_is_repeated() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/missing" => Answer::new(404, ""),
        "/closed" => Answer::new(403, ""),
        "/circle" => Answer::to("/circle"),
        _ => Answer::new(500, ""),
    });
    let dir = tempfile::tempdir().unwrap();
    for (path, word, hint, requests) in [
        ("/missing", "404", "nothing there", 1),
        ("/closed", "403", "not public", 1),
        ("/circle", "elsewhere", "circles", 11),
        ("/trouble", "500", "goes on", 6),
    ] {
        let error = fails(dir.path(), "", &one(&server.at(path)));
        assert!(error.chain().contains(word), "{path}: {}", error.chain());
        assert!(error.hint().unwrap().contains(hint), "{path}: {error:?}");
        assert_eq!(server.paths().iter().filter(|asked| *asked == path).count(), requests, "{path}");
    }
    // A port on which nobody listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fails(dir.path(), "", &one(&format!("http://{free}/a")));
    assert!(error.chain().contains("cannot reach"), "{}", error.chain());
    assert!(error.hint().unwrap().contains("network"));
}

#[test]
fn files_larger_than_allowed_are_refused_even_without_an_end() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/said" => Answer::new(200, vec![b'a'; 5000]),
        _ => Answer { endless: true, ..Answer::new(200, "") },
    });
    let dir = tempfile::tempdir().unwrap();
    for path in ["/said", "/endless"] {
        let error =
            fails(dir.path(), "", &format!("sources = [{{ path = \"{}\", max_bytes = 4999 }}]", server.at(path)));
        assert!(error.chain().contains("larger than the 4999 allowed"), "{}", error.chain());
        assert!(error.hint().unwrap().contains("max_bytes"));
    }
}

#[test]
fn a_changed_file_is_noticed_only_when_asked() {
    let server = Server::start(|asked, number| match number {
        0 | 1 => Answer::file(asked, b"one", "\"v1\""),
        _ => Answer::file(asked, b"two", "\"v2\""),
    });
    let dir = tempfile::tempdir().unwrap();
    let plain = one(&server.at("/a.txt"));
    let refresh = format!("refresh = true\n{plain}");
    let first = collected(dir.path(), "", &plain).unwrap();
    let unchanged = collected(dir.path(), "", &refresh).unwrap();
    assert_eq!(unchanged.sources, first.sources, "the time too");
    assert_eq!(server.asked()[1].header("if-none-match"), Some("\"v1\""));
    assert_eq!(content(&collected(dir.path(), "", &plain).unwrap()), b"one");
    assert_eq!(content(&collected(dir.path(), "", &refresh).unwrap()), b"two");
    assert_eq!(content(&collected(dir.path(), "", &plain).unwrap()), b"two");
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn unknown_schemes_and_settings_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    for (source, hint) in [
        ("\"ftp://here/a\"", "https://"),
        ("\"http://user:word@here/a\"", "password"),
        ("{ path = \"a.txt\", sha256 = \"00\" }", "collected"),
        ("{ path = \"a.txt\", epoch = 1 }", "epochs"),
        ("{ crawl = [\"https://here/\"], rates = 1 }", "rate"),
        ("{ crawl = [\"here\"] }", "https://"),
        ("{ crawl = [\"https://here/\"], rate = 0 }", "rate"),
        ("{ crawl = [\"https://here/\"], user_agent = \"(me)\" }", "name"),
        ("7", "text or a table"),
    ] {
        let error = fails(dir.path(), "", &format!("sources = [{source}]"));
        assert_eq!(error.class(), Class::Usage, "{source}: {error:?}");
        let text = format!("{} {}", error.chain(), error.hint().unwrap_or_default());
        assert!(text.contains(hint), "{source}: {text}");
    }
}
