//! Connections: used again, over TLS, in HTTP/2, or not to be had.

use std::{net::TcpListener, path::PathBuf};

use futures_util::future::join_all;
use pelton::{
    handler::{Call, Fault},
    manifest,
};

use super::{
    super::{SHORT, call, done, folder, plain},
    Server, posts, spec,
};

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::python();
    let handler = posts(server.spec());
    for subject in ["echo", "nothing", "retry", "reject", "size"].into_iter().cycle().take(40) {
        handler.call(call(subject, "x")).await.unwrap();
    }
    assert_eq!(plain(handler.call(call("connections", "")).await), done(&["1"]));
    handler.stop().await;
}

#[tokio::test]
async fn http2_is_spoken_without_tls_when_told_to() {
    let server = Server::node(&[]);
    let handler = posts(manifest::Http { http2: true, ..server.spec() });
    let calls = (0..50).map(|n| handler.call(call("any", n.to_string())));
    for (n, said) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(plain(said), done(&[&format!("2.0 {n}")]));
    }
    handler.stop().await;
}

#[tokio::test]
async fn http2_finds_nobody_or_a_server_that_does_not_speak_it() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let handler = posts(manifest::Http { http2: true, ..spec(&format!("http://{closed}")) });
    let calls = (0..8).map(|_| handler.call(call("echo", "x")));
    for said in join_all(calls).await {
        assert!(matches!(said, Err(Fault::Unavailable(_))), "{said:?}");
    }
    let server = Server::python();
    let handler = posts(manifest::Http { http2: true, ..server.spec() });
    let said = handler.call(Call { timeout: SHORT, ..call("echo", "x") }).await;
    // It answers in words of its own, or breaks off before they are read.
    assert!(matches!(said, Err(Fault::BadReply(_) | Fault::Crash(_))), "{said:?}");
}

/// An authority, and a certificate of its for 127.0.0.1.
pub(crate) struct Issued {
    pub(crate) ca: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) certificate: PathBuf,
}

pub(crate) fn issue() -> Issued {
    let folder = folder();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let certificate =
        rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let file = |name: &str, text: String| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    Issued {
        ca: file("ca.pem", ca.pem()),
        key: file("key.pem", key.serialize_pem()),
        certificate: file("cert.pem", certificate.pem()),
    }
}

#[tokio::test]
async fn tls_trusts_the_authority_of_the_manifest_and_no_other() {
    let issued = issue();
    let server = Server::node(&[&issued.key, &issued.certificate]);
    let url = format!("https://127.0.0.1:{}/", server.port);
    let trusting = |ca_file| posts(manifest::Http { ca_file, ..spec(&url) });
    let good = trusting(Some(issued.ca.clone()));
    assert_eq!(plain(good.call(call("any", "x")).await), done(&["2.0 x"]), "HTTP/2 by ALPN");
    for (ca_file, about) in
        [(Some(issue().ca), "certificate"), (None, "certificate"), (Some(issued.key), "ca_file")]
    {
        let said = trusting(ca_file).call(call("any", "x")).await;
        assert!(matches!(&said, Err(Fault::Unavailable(why)) if why.contains(about)), "{said:?}");
    }
    let late = folder().join("late.pem");
    let mended = trusting(Some(late.clone()));
    assert!(matches!(mended.call(call("any", "x")).await, Err(Fault::Unavailable(_))));
    std::fs::copy(&issued.ca, late).unwrap();
    assert_eq!(plain(mended.call(call("any", "x")).await), done(&["2.0 x"]));
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_unavailable() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_text = Server::python();
    for url in [
        format!("http://{closed}"),
        format!("https://{}", silent.local_addr().unwrap()),
        format!("https://127.0.0.1:{}", plain_text.port),
        "http://nowhere.invalid".to_owned(),
    ] {
        let handler = posts(spec(&url));
        assert_eq!(handler.start().await, Ok(()), "nothing is asked before there is an event");
        let said = handler.call(Call { timeout: SHORT, ..call("echo", "x") }).await;
        assert!(matches!(&said, Err(Fault::Unavailable(why)) if why.contains(&url)), "{said:?}");
    }
}

#[tokio::test]
async fn the_time_of_an_event_starts_with_its_request() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let handler = posts(spec(&format!("http://{}", silent.local_addr().unwrap())));
    let said = handler.call(Call { timeout: SHORT, ..call("echo", "x") }).await;
    assert_eq!(said, Err(Fault::Timeout(SHORT)));
}
