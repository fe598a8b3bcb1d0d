//! The `openai` package from PyPI, unchanged, against this server.

use std::process::Command;

use crate::common::start_with_key;

#[test]
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn the_openai_package_works_unchanged() {
    let Ok(python) = std::env::var("CUPOLA_PEER_PYTHON") else {
        println!("skipped: CUPOLA_PEER_PYTHON names no Python that has the `openai` package");
        return;
    };
    let server = start_with_key("sk-right");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/openai_client.py");
    let arguments = [script, &server.url("/v1"), "sk-right"];
    let output = Command::new(python).args(arguments).env("NO_PROXY", "127.0.0.1").output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("all claims hold"));
}
