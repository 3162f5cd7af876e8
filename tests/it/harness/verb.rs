//! Verbs of `pelton` that end by themselves.

use std::process::{Output, Stdio};

use tokio::process::Command;

use super::{NatsServer, Site};

/// A verb on a site and a server.
pub(crate) fn verb(site: &Site, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    command
        .args(arguments)
        .current_dir(site.dir())
        .env("NATS_URL", url)
        .env("SITE", site.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The exit code of a verb, what it printed, and what it said beside that.
pub(crate) async fn outcome(mut verb: Command) -> (i32, String, String) {
    told(verb.output().await.expect("pelton starts"))
}

pub(crate) fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// What a verb printed that succeeded.
pub(crate) async fn printed(site: &Site, server: &NatsServer, arguments: &[&str]) -> String {
    let (code, printed, told) = outcome(verb(site, &server.url(), arguments)).await;
    assert_eq!(code, 0, "{told}");
    printed
}
