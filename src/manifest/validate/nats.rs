//! `nats:`

use std::path::{Path as FilePath, PathBuf};

use super::texts;
use crate::manifest::{
    Auth, Nats, Secret, Server, Tls, defaults,
    leaf::{Keys, OneOrMany, Text},
    path::Path,
    raw,
    report::Report,
};
use crate::subject;

pub(super) fn nats(
    raw: Option<Keys<raw::Nats>>,
    dir: &FilePath,
    path: &Path,
    report: &mut Report,
) -> Nats {
    let Keys(raw) = raw.unwrap_or(Keys(raw::Nats::default()));
    let (servers, in_urls) = servers(raw.servers, &path.key("servers"), report);
    let mut forms: Vec<(Path, Auth)> = in_urls.into_iter().collect();
    let mut form = |key: &str, auth: Option<Auth>| {
        if let Some(auth) = auth {
            forms.push((path.key(key), auth));
        }
    };
    let file = |text: Option<Text>| given(text).map(|file| resolve(dir, &file));
    form("credentials_file", file(raw.credentials_file).map(Auth::Credentials));
    form("nkey_seed_file", file(raw.nkey_seed_file).map(Auth::NkeySeed));
    form("token", given(raw.token).map(|token| Auth::Token(Secret(token))));
    let (user, password) = (given(raw.user), given(raw.password));
    if user.is_some() != password.is_some() {
        let (there, missing) =
            if user.is_some() { ("user", "password") } else { ("password", "user") };
        if !report.is_spoiled(&path.key(missing)) {
            let hint = format!("add `{missing}`, or take `{there}` out");
            report.error_hint(&path.key(there), format!("`{there}` needs `{missing}`"), hint);
        }
    }
    form(
        "user",
        user.zip(password).map(|(user, password)| Auth::UserPassword(user, Secret(password))),
    );
    let auth = only_one(forms, report);
    let (domain, api_prefix) = (given(raw.domain), given(raw.api_prefix));
    if domain.is_some() && api_prefix.is_some() {
        report.error_hint(
            &path.key("api_prefix"),
            "`domain` and `api_prefix` exclude each other",
            "a domain is the prefix `$JS.<domain>.API`: keep one of them",
        );
    }
    let inbox_prefix = given(raw.inbox_prefix);
    for (key, prefix) in [("api_prefix", &api_prefix), ("inbox_prefix", &inbox_prefix)] {
        if let Some(prefix) = prefix {
            super::literal(prefix, &path.key(key), report);
        }
    }
    if let Some(domain) = &domain
        && (subject::complaint(domain).is_some() || domain.contains('.'))
    {
        report.error(
            &path.key("domain"),
            format!("`{domain}` is no domain: it is one token of a subject"),
        );
    }
    let tls = raw.tls.and_then(|Keys(tls)| certificates(tls, dir, &path.key("tls"), report));
    Nats { servers, auth, tls, domain, api_prefix, inbox_prefix }
}

/// An empty text is as good as none: that is what `${X:-}` yields.
fn given(text: Option<Text>) -> Option<String> {
    text.map(|Text(text)| text).filter(|text| !text.is_empty())
}

fn only_one(forms: Vec<(Path, Auth)>, report: &mut Report) -> Auth {
    let mut forms = forms.into_iter();
    let Some((first, auth)) = forms.next() else { return Auth::None };
    for (path, other) in forms {
        if other != auth {
            report.error_hint(
                &path,
                format!("`{}` and `{}` both say who we are", first.tail(), path.tail()),
                "keep one of credentials_file, nkey_seed_file, token, user with password, or the URL",
            );
        }
    }
    auth
}

fn certificates(raw: raw::Tls, dir: &FilePath, path: &Path, report: &mut Report) -> Option<Tls> {
    // `tls: {}` asks for TLS as the system has it; texts that are all empty ask for nothing.
    let texts = [&raw.ca_file, &raw.cert_file, &raw.key_file];
    let written = texts.iter().any(|text| text.is_some());
    if written && texts.into_iter().flatten().all(|Text(text)| text.is_empty()) {
        return None;
    }
    let file = |text: Option<Text>| given(text).map(|file| resolve(dir, &file));
    let (cert, key) = (file(raw.cert_file), file(raw.key_file));
    if cert.is_some() != key.is_some() {
        let (there, missing) =
            if cert.is_some() { ("cert_file", "key_file") } else { ("key_file", "cert_file") };
        if !report.is_spoiled(&path.key(missing)) {
            let hint = format!("add `{missing}`, or take `{there}` out");
            report.error_hint(&path.key(there), format!("`{there}` needs `{missing}`"), hint);
        }
    }
    Some(Tls { ca_file: file(raw.ca_file), client: cert.zip(key) })
}

type Servers = (Vec<String>, Option<(Path, Auth)>);

fn servers(raw: Option<OneOrMany>, path: &Path, report: &mut Report) -> Servers {
    let mut servers = Vec::new();
    let mut auth: Option<(Path, Auth)> = None;
    let listed = raw.map(|raw| texts(raw, path, report)).unwrap_or_default();
    for (at, text) in listed {
        // `NATS_URL` is a list with commas by custom.
        for url in text.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let (server, found) = match Server::parse(url) {
                Ok(Server { url, auth }) => (url, auth),
                Err(wrong) => {
                    report.error_hint(&at, wrong.to_string(), wrong.hint());
                    continue;
                }
            };
            servers.push(server);
            match (&auth, found) {
                (_, Auth::None) => {}
                (None, found) => auth = Some((at.clone(), found)),
                (Some((_, known)), found) if *known == found => {}
                _ => report.error_hint(
                    &at,
                    "the servers' URLs name different users",
                    "all servers of a cluster take the same user: name it once",
                ),
            }
        }
    }
    if servers.is_empty() {
        servers.push(defaults::SERVER.to_owned());
    }
    (servers, auth)
}

/// Keeps paths without `.` in the middle: they are shown to people.
pub(super) fn resolve(dir: &FilePath, file: &str) -> PathBuf {
    dir.join(file).components().collect()
}
