//! Crawling sites made for the tests.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::server::{Answer, Asked, Server};
use super::{collected, content, fails};

fn crawl(dir: &Path, server: &Server, more: &str) -> cupola_artifact::Result<super::Collection> {
    collected(dir, "", &settings(server, more))
}

fn settings(server: &Server, more: &str) -> String {
    format!("sources = [{{ crawl = [\"{}/\"], rate = 1000, timeout = 2.0{more} }}]", server.address)
}

fn records(collection: &super::Collection) -> Vec<Value> {
    let packed = content(collection);
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The paths of the pages that were kept, in order.
fn kept(collection: &super::Collection) -> Vec<String> {
    let path = |record: &Value| record["url"].as_str().unwrap().splitn(4, '/').nth(3).unwrap().to_owned();
    records(collection).iter().map(path).collect()
}

fn links(to: &[&str]) -> String {
    to.iter().map(|to| format!("<a href=\"{to}\">{to}</a>")).collect()
}

fn gz(text: &str) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap()
}

fn host_of(asked: &Asked) -> String {
    format!("http://{}", asked.header("host").unwrap())
}

/// A site with everything that a crawler can meet.
fn site(asked: &Asked) -> Answer {
    let here = host_of(asked);
    match asked.path.as_str() {
        "/robots.txt" => Answer::new(
            200,
            format!(
                "User-agent: *\nDisallow: /\n\nUser-agent: cupola\nDisallow: /private\nAllow: /private/open\nSitemap: {here}/map.xml\n"
            ),
        ),
        "/map.xml" => Answer::new(
            200,
            format!(
                "<sitemapindex><sitemap><loc>{here}/part.xml.gz</loc></sitemap><sitemap><loc>http://other.invalid/x.xml</loc></sitemap></sitemapindex>"
            ),
        ),
        "/part.xml.gz" => Answer::new(
            200,
            gz(&format!(
                "<urlset><url><loc>{here}/mapped</loc></url><url><loc>http://other.invalid/</loc></url></urlset>"
            )),
        ),
        "/" => Answer::html(&links(&[
            "a",
            "/private/b",
            "private/open/c",
            "/circle",
            "/slow",
            "/broken",
            "/huge",
            "/picture",
            "/plain",
            "/noindex",
            "/nofollow",
            "/moved",
            "/trap/0",
            "http://other.invalid/",
            "a#again",
            "/page?print=1",
            "/page",
            "/zipped",
        ])),
        "/a" => Answer::html(&format!(
            "<a rel=license href='//creativecommons.org/licenses/by/4.0/'>x</a>{}",
            links(&["/a2", "/"])
        )),
        "/circle" => Answer::to("/circle2"),
        "/circle2" => Answer::to("/circle"),
        "/slow" => Answer { delay: Duration::from_secs(5), ..Answer::html("slow") },
        "/broken" => Answer::new(500, ""),
        "/huge" => Answer { endless: true, ..Answer::html("") },
        "/picture" => Answer::new(200, "png").with("content-type", "image/png"),
        "/plain" => Answer::new(200, "caf\u{e9}").with("content-type", "text/plain; charset=utf-8"),
        "/noindex" => Answer::html(&links(&["/from-noindex"])).with("x-robots-tag", "noindex"),
        "/nofollow" => Answer::html("<meta name=robots content=nofollow><a href=/from-nofollow>"),
        "/moved" => Answer::to("/target"),
        "/page?print=1" | "/page" => Answer::html("<link rel=canonical href=/page>page"),
        "/zipped" => {
            Answer::new(200, gz("<p>zipped</p>")).with("content-type", "text/html").with("content-encoding", "gzip")
        }
        path if path.starts_with("/trap/") => {
            let number: u64 = path[6..].parse().unwrap();
            Answer::html(&links(&[&format!("/trap/{}", number + 1), &format!("/x{path}{path}{path}")]))
        }
        "/a2" | "/private/open/c" | "/mapped" | "/from-noindex" | "/target" => Answer::html(&asked.path),
        _ => Answer::new(404, ""),
    }
}

#[test]
fn a_site_is_walked_politely_and_in_order() {
    let server = Server::start(|asked, _| site(asked));
    let dir = tempfile::tempdir().unwrap();
    let collection = crawl(dir.path(), &server, ", max_page_bytes = 100000, max_depth = 4").unwrap();
    let expected = [
        "",
        "mapped",
        "a",
        "private/open/c",
        "plain",
        "nofollow",
        "trap/0",
        "page?print=1",
        "zipped",
        "a2",
        "from-noindex",
        "target",
        "trap/1",
        "trap/2",
        "trap/3",
    ];
    assert_eq!(kept(&collection), expected);
    let asked: BTreeMap<String, usize> = server.paths().into_iter().fold(BTreeMap::new(), |mut counts, path| {
        *counts.entry(path).or_default() += 1;
        counts
    });
    for never in ["/private/b", "/from-nofollow", "/trap/4", "/x/trap/0/trap/0/trap/0"] {
        assert!(!asked.contains_key(never), "{never}");
    }
    for once in ["/robots.txt", "/map.xml", "/part.xml.gz", "/", "/a", "/circle", "/circle2", "/slow", "/huge"] {
        assert_eq!(asked[once], 1, "{once}");
    }
    assert_eq!(asked["/broken"], 3, "the trouble may pass");
    assert!(server.asked().iter().all(|asked| asked.header("user-agent").unwrap().starts_with("cupola/")));
    let records = records(&collection);
    assert_eq!(records[2]["license"], "CC-BY-4.0");
    assert_eq!((&records[4]["text"], &records[4]["html"]), (&Value::from("café"), &Value::Null));
    assert_eq!(records[8]["html"], "<p>zipped</p>");
    assert_eq!(records[0]["content_type"], "text/html; charset=utf-8");
    assert!(records.iter().all(|record| record["date"].as_str().unwrap().ends_with('Z')));
}

#[test]
fn the_number_of_pages_is_a_limit_and_patterns_choose() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/robots.txt" => Answer::new(404, ""),
        _ => Answer::html(&links(&["/x/1", "/x/2", "/y/1", "/y/2", "/x/3", "/y/3"])),
    });
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(kept(&crawl(dir.path(), &server, ", max_pages = 3").unwrap()), ["", "x/1", "x/2"]);
    let chosen = crawl(dir.path(), &server, ", include = [\"*/y/*\"], exclude = [\"*/2\"]").unwrap();
    assert_eq!(kept(&chosen), ["", "y/1", "y/3"]);
}

#[test]
fn requests_to_a_site_keep_their_distance() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/robots.txt" => Answer::new(200, "User-agent: *\nCrawl-delay: 0.3\n"),
        _ => Answer::html(&links(&["/1", "/2", "/3"])),
    });
    let dir = tempfile::tempdir().unwrap();
    crawl(dir.path(), &server, ", sitemaps = false").unwrap();
    let times: Vec<_> = server.asked().into_iter().map(|asked| asked.when).collect();
    assert_eq!(times.len(), 5);
    // The first pause is that of the settings: robots.txt is not known before it is read.
    assert!(times[4] - times[1] >= Duration::from_millis(700), "{times:?}");
}

#[test]
fn a_site_whose_robots_txt_cannot_be_read_is_left_alone() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/robots.txt" => Answer::new(503, ""),
        _ => Answer::html("page"),
    });
    let dir = tempfile::tempdir().unwrap();
    let error = fails(dir.path(), "", &settings(&server, ""));
    assert!(error.chain().contains("1 disallowed") && error.hint().unwrap().contains("robots.txt"), "{error:?}");
    assert!(server.paths().iter().all(|path| path == "/robots.txt"), "{:?}", server.paths());
}

#[test]
fn a_crawl_that_was_cut_off_asks_only_for_the_rest_and_gives_the_same_pages() {
    let server = Server::start(|asked, _| site(asked));
    let dir = tempfile::tempdir().unwrap();
    let more = ", max_page_bytes = 100000, max_depth = 4";
    let whole = crawl(dir.path(), &server, more).unwrap();
    let asked_for_all = server.asked().len();
    let entry = std::fs::read_dir(dir.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    // As if it had been killed in the middle of a line.
    let visits = entry.join("crawl/visits.jsonl");
    let lines = std::fs::read(&visits).unwrap();
    std::fs::write(&visits, &lines[..lines.len() / 2]).unwrap();
    std::fs::remove_file(entry.join("crawl/done")).unwrap();
    std::fs::remove_file(entry.join("collected.json")).unwrap();
    let again = crawl(dir.path(), &server, more).unwrap();
    assert_eq!(kept(&again), kept(&whole));
    let asked_for_rest = server.asked().len() - asked_for_all;
    assert!((1..asked_for_all - 5).contains(&asked_for_rest), "{asked_for_rest} of {asked_for_all}");
}

#[test]
fn several_sites_at_once_come_in_the_same_order_each_time() {
    let slow_then_fast = |slow: u64| {
        Server::start(move |asked, _| match asked.path.as_str() {
            "/robots.txt" | "/sitemap.xml" => Answer::new(404, ""),
            _ => Answer { delay: Duration::from_millis(slow), ..Answer::html(&links(&["/1", "/2"])) },
        })
    };
    let servers = [slow_then_fast(40), slow_then_fast(0), slow_then_fast(20)];
    let seeds: Vec<String> = servers.iter().map(|server| format!("\"{}/\"", server.address)).collect();
    let settings = format!("sources = [{{ crawl = [{}], rate = 1000 }}]", seeds.join(", "));
    let urls = |dir: &Path| -> Vec<Value> {
        records(&collected(dir, "", &settings).unwrap()).into_iter().map(|mut record| record["url"].take()).collect()
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = urls(one.path());
    assert_eq!(first, urls(two.path()));
    let starts: Vec<Value> = servers.iter().map(|server| Value::from(server.at("/"))).collect();
    assert_eq!(first[..3], starts);
    assert_eq!(first.len(), 9);
}

#[test]
fn a_beginning_that_points_to_another_site_takes_the_crawl_there() {
    let target = Server::start(|_, _| Answer::html(&links(&["/next"])));
    let address = target.at("/");
    let start = Server::start(move |_, _| Answer::to(&address));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(kept(&crawl(dir.path(), &start, ", sitemaps = false").unwrap()), ["", "next"]);
}
